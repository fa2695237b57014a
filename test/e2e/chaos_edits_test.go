package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
)

// editable is a realm whose file may be changed; nil when there is none.
func (c *chaos) editable() *chaosRealm {
	whole := slices.DeleteFunc(slices.Clone(c.realms), func(r *chaosRealm) bool { return r.broken })
	if len(whole) == 0 {
		return nil
	}
	return whole[c.dice.IntN(len(whole))]
}

func (c *chaos) editEnv(kind string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	mine := slices.DeleteFunc(slices.Clone(r.containers), func(d *chaosContainer) bool { return d.calm })
	d := mine[c.dice.IntN(len(mine))]
	c.disturb(r)
	c.excuse(kind, d, 0)
	c.mu.Lock()
	d.rev++
	c.mu.Unlock()
	c.put(r)
	return fmt.Sprintf("%s rev %d", c.mark(d), d.rev), nil
}

// editEnvAndBack may find a container in the middle of its end: it has to run all the same, as it did before.
func (c *chaos) editEnvAndBack(kind string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	mine := slices.DeleteFunc(slices.Clone(r.containers), func(d *chaosContainer) bool { return d.calm })
	d := mine[c.dice.IntN(len(mine))]
	c.excuse(kind, d, 0)
	edit := func(by int) {
		c.disturb(r)
		c.mu.Lock()
		d.rev += by
		c.mu.Unlock()
		c.put(r)
	}
	edit(1)
	pause := time.Duration(c.dice.IntN(300)) * time.Millisecond
	c.wait(pause)
	edit(-1)
	return fmt.Sprintf("%s for %v", c.mark(d), pause), nil
}

// addOrRemove lets one container come and go.
func (c *chaos) addOrRemove(kind string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	c.disturb(r)
	const id = "extra"
	at := slices.IndexFunc(r.containers, func(d *chaosContainer) bool { return d.id == id })
	if at >= 0 {
		c.mu.Lock()
		r.containers = slices.Delete(slices.Clone(r.containers), at, at+1)
		c.mu.Unlock()
		c.put(r)
		return "without " + r.name + "/" + id, nil
	}
	d := &chaosContainer{realm: r, id: id, image: "sleeps", fields: []string{"restartBackoffSeconds: 0"}, rev: r.version}
	c.excuse(kind, d, 0)
	c.mu.Lock()
	r.containers = append(slices.Clone(r.containers), d)
	c.mu.Unlock()
	c.put(r)
	return "with " + c.mark(d), nil
}

func (c *chaos) rename(string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	c.disturb(r)
	r.version++
	was := r.file
	r.file = fmt.Sprintf("%s-%d.yaml", r.name, r.version)
	return was + " -> " + r.file, os.Rename(filepath.Join(c.manifests, was), filepath.Join(c.manifests, r.file))
}

func (c *chaos) comment(string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	c.put(r)
	return r.file, nil
}

// damage cuts a file off, or spoils it, in place. A file that is cut off between two containers is a valid one with
// fewer of them, and not meant here.
func (c *chaos) damage(kind string) (string, error) {
	GinkgoHelper()
	r := c.editable()
	if r == nil {
		return "", errMissed
	}
	text := c.manifest(r)
	what := "not YAML"
	if strings.Contains(kind, "truncated") {
		lines := strings.SplitAfter(text, "\n")
		n := len(lines) - 2 - c.dice.IntN(len(r.containers)) // a container's line
		cut := []int{0, strings.Index(text, "containers:") + len("containers:"), len(strings.Join(lines[:n], "")) + 12}
		at := cut[c.dice.IntN(len(cut))]
		text, what = text[:at], fmt.Sprintf("cut at %d", at)
	} else {
		text += "\t: ]}[\n"
	}
	c.disturb(r)
	r.broken = true
	length := 2*time.Second + time.Duration(c.dice.Int64N(int64(10*time.Second)))
	c.last(length, func() {
		r.broken = false
		c.put(r)
	}, r)
	return r.file + " " + what, os.WriteFile(filepath.Join(c.manifests, r.file), []byte(text), 0o644)
}
