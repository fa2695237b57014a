package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// FieldClass says what it takes to carry out a change of a field.
type FieldClass string

// The field classes.
const (
	// Live fields are updated on the container without touching its process.
	Live FieldClass = "live"
	// Recreate fields make a new container in place of the old one.
	Recreate FieldClass = "recreate"
)

// Field is one row of the field table: a part of Spec that is compared on its own.
type Field struct {
	// Name is the path as the manifest writes it, relative to the container.
	Name  string
	Class FieldClass
	get   func(*Spec) any
}

// Fields is the one table of what a change of each field takes. A field that is not here is not compared.
var Fields = []Field{
	{"image", Recreate, func(s *Spec) any { return s.Image }},
	{"command", Recreate, func(s *Spec) any { return s.Command }},
	{"args", Recreate, func(s *Spec) any { return s.Args }},
	{"workingDir", Recreate, func(s *Spec) any { return s.WorkingDir }},
	{"user", Recreate, func(s *Spec) any { return s.User }},
	{"env", Recreate, func(s *Spec) any { return s.Env }},
	{"volumes", Recreate, func(s *Spec) any { return s.Mounts }},
	{"devices", Recreate, func(s *Spec) any { return s.Devices }},
	{"privileged", Recreate, func(s *Spec) any { return s.Privileged }},
	{"hostNetwork", Recreate, func(s *Spec) any { return s.HostNetwork }},
	{"hostPID", Recreate, func(s *Spec) any { return s.HostPID }},
	{"readOnlyRootFilesystem", Recreate, func(s *Spec) any { return s.ReadOnlyRootFilesystem }},
	{"capabilities", Recreate, func(s *Spec) any { return s.Capabilities }},
	{"securityOpts", Recreate, func(s *Spec) any { return s.Security }},
	{"resources", Recreate, func(s *Spec) any { return s.Resources }},
	{"logging.driver", Recreate, func(s *Spec) any { return s.LogDriver }},
	{"imagePullPolicy", Live, func(s *Spec) any { return s.PullPolicy }},
	{"restartPolicy", Live, func(s *Spec) any { return s.Restart.Policy }},
	{"restartBackoffSeconds", Live, func(s *Spec) any { return s.Restart.BackoffSeconds }},
	{"restartMaxRetries", Live, func(s *Spec) any { return s.Restart.MaxRetries }},
	{"stopSignal", Live, func(s *Spec) any { return s.Stop.Signal }},
	{"stopGracePeriodSeconds", Live, func(s *Spec) any { return s.Stop.GraceSeconds }},
	{"labels", Live, func(s *Spec) any { return s.Labels }},
	{"logging", Live, func(s *Spec) any { return s.Log }},
}

// Change is one field that differs between two specs.
type Change struct {
	Field string     `json:"field"`
	Class FieldClass `json:"class"`
	Old   string     `json:"old"` // short printed forms, for people
	New   string     `json:"new"`
}

// String prints field old -> new.
func (c Change) String() string { return fmt.Sprintf("%s %s -> %s", c.Field, c.Old, c.New) }

// Changes lists the fields in which next differs from s, in table order. Empty and absent are the same.
func (s Spec) Changes(next Spec) []Change {
	if s.identical(&next) { // the usual case, at a fraction of the cost
		return nil
	}
	return changes(s, next)
}

// identical reports whether two specs agree in everything that is compared, without an allocation: every pass asks it
// of every container. What is empty in one and absent in the other is left to changes.
func (s *Spec) identical(o *Spec) bool {
	mount := func(a, b Mount) bool {
		return slices.Equal(a.Options, b.Options) && a.Kind == b.Kind && a.Source == b.Source && a.Target == b.Target &&
			a.ReadOnly == b.ReadOnly && a.SizeBytes == b.SizeBytes && a.Mode == b.Mode
	}
	retries := func(r *int) int {
		if r == nil {
			return -1
		}
		return *r
	}
	return s.Image == o.Image && s.PullPolicy == o.PullPolicy && slices.Equal(s.Command, o.Command) &&
		slices.Equal(s.Args, o.Args) && s.WorkingDir == o.WorkingDir && s.User == o.User && slices.Equal(s.Env, o.Env) &&
		slices.EqualFunc(s.Mounts, o.Mounts, mount) && slices.Equal(s.Devices, o.Devices) &&
		s.Privileged == o.Privileged && s.HostNetwork == o.HostNetwork && s.HostPID == o.HostPID &&
		s.ReadOnlyRootFilesystem == o.ReadOnlyRootFilesystem && slices.Equal(s.Capabilities.Drop, o.Capabilities.Drop) &&
		slices.Equal(s.Capabilities.Add, o.Capabilities.Add) && s.Security == o.Security && s.Resources == o.Resources &&
		s.LogDriver == o.LogDriver && s.Restart.Policy == o.Restart.Policy &&
		s.Restart.BackoffSeconds == o.Restart.BackoffSeconds && retries(s.Restart.MaxRetries) == retries(o.Restart.MaxRetries) &&
		s.Stop == o.Stop && maps.Equal(s.Labels, o.Labels) && s.Log == o.Log
}

func changes(s, next Spec) []Change {
	var out []Change
	for _, f := range Fields {
		was, is := f.get(&s), f.get(&next)
		if same(was, is) {
			continue
		}
		c := Change{Field: f.Name, Class: f.Class, Old: show(was), New: show(is)}
		if f.Name == "env" {
			if c.Old, c.New = showNames(s.Env, next.Env), showNames(next.Env, s.Env); c.Old == c.New {
				c.Old, c.New = c.Old+" (old)", c.New+" (new)"
			}
		}
		if c.Old == c.New { // the printed forms were cut short: tell at least that they differ
			c.Old, c.New = "(old)", "(new)"
		}
		out = append(out, c)
	}
	return out
}

// Digest hashes the recreate-class fields. Equal digests mean that no restart is needed between two specs.
func (s Spec) Digest() Digest {
	h := sha256.New()
	for _, f := range Fields {
		if v := f.get(&s); f.Class == Recreate && !same(v, nil) {
			fmt.Fprintf(h, "%s=%s\n", f.Name, encode(v))
		}
	}
	return Digest(hex.EncodeToString(h.Sum(nil)))
}

// same compares by meaning: nil, empty and zero are equal, as they are in the stored form.
func same(a, b any) bool {
	return reflect.DeepEqual(a, b) || blank(a) && blank(b)
}

func blank(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice, reflect.Map:
		return r.Len() == 0
	case reflect.Struct:
		return string(encode(v)) == "{}"
	default:
		return r.IsZero()
	}
}

// encode is canonical: encoding/json sorts map keys and struct fields keep their order.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("state: a spec's field cannot be encoded: %v", err)) // plain data: cannot happen
	}
	return b
}

// showNames prints the names of the variables that are not the same in the other list. Their values may be secrets, and
// what is printed here goes into logs.
func showNames(env, other []string) string {
	var names []string
	for _, v := range env {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(other, v) {
			names = append(names, name)
		}
	}
	return show(names)
}

// showLimit keeps a changed field readable on one line of a plan.
const showLimit = 60

func show(v any) string {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case PullPolicy, RestartPolicy, LogDriver:
		s = fmt.Sprint(v)
	case []string:
		s = strings.Join(v, " ")
	case map[string]string:
		pairs := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			pairs = append(pairs, k+"="+v[k])
		}
		s = strings.Join(pairs, ",")
	default:
		if blank(v) {
			return "none"
		}
		s = string(encode(v))
	}
	switch {
	case s == "":
		return "none"
	case len(s) > showLimit:
		return strings.ToValidUTF8(s[:showLimit], "") + "..."
	}
	return s
}
