package status

import (
	"fmt"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// judgement is a phase and why.
type judgement struct {
	phase           Phase
	reason, message string
}

// judge finds the phase of an accepted container. What the world shows goes before what is planned, and what is
// under way before what waits.
func (v view) judge(c state.Container, o state.ObservedContainer) judgement {
	obj := containerObject(c.ID)
	left := v.left[obj].Reason
	switch {
	case v.Unavailable != "":
		return judgement{PhaseUnknown, reasonUnavailable, v.Unavailable}
	case !v.Seen:
		return judgement{PhaseUnknown, reasonNotObserved, "the namespace was not observed yet"}
	case left.Code == plan.ReasonConflict:
		return judgement{PhaseConflict, string(left.Code), left.Text}
	case o.Recorded && o.Unreadable == "" && o.Owner() != v.Have.Owner:
		return judgement{PhaseConflict, string(plan.ReasonConflict), fmt.Sprintf(
			"a container that is not ours stands under its name; `kukeon-reconciler adopt %s/%s` takes it over", v.Accepted.Name, c.Name)}
	case o.Unreadable != "":
		return judgement{PhaseUnknown, string(plan.ReasonUnknown), o.Unreadable}
	case o.Task.Status == state.TaskUnknown:
		return judgement{PhaseUnknown, v.unknownReason(o), v.unknownText(o)}
	}
	if phase, working := workingPhase(v.Busy.Running[obj]); working {
		return judgement{phase, reasonWorking, v.progress(obj)}
	}
	switch {
	case o.Recorded && o.Task.Status == state.TaskRunning:
		return v.running(c, o)
	case o.Recorded && o.Task.Status == state.TaskPaused:
		return judgement{PhasePending, reasonPaused, join("somebody paused it", v.progress(obj))}
	}
	return v.notRunning(c, o)
}

// workingPhase is the phase that an operation under way means; false when it does not tell.
func workingPhase(op plan.Operation) (Phase, bool) {
	switch op.(type) {
	case plan.Stop, plan.Remove, plan.Clean:
		return PhaseStopping, true
	case plan.Create, plan.Start:
		return PhaseCreating, true
	case plan.Pull, plan.Unpack:
		return PhasePulling, true
	}
	return "", false
}

// running says what else there is to say about a container that runs.
func (v view) running(c state.Container, o state.ObservedContainer) judgement {
	obj := containerObject(c.ID)
	j := judgement{PhaseRunning, reasonRunning, ""}
	if left, ok := v.left[obj]; ok {
		j.reason, j.message = string(left.Reason.Code), left.Reason.Text
		return j
	}
	if s := v.suspension(c.ID); s != "" {
		return judgement{PhaseRunning, string(plan.ReasonSuspended), s}
	}
	if r, failed := v.retry(obj); failed {
		return judgement{PhaseRunning, reasonRetrying, retryText(r)}
	}
	if j.message = join(v.progress(obj), v.imageTrouble(c)); j.message != "" {
		j.reason = reasonWorking
		if op, planned := v.planned[obj]; planned {
			j.reason = string(op.Because().Code)
		}
		return j
	}
	if exit, ok := state.ParseExit(o.Labels[state.LabelExit]); ok {
		j.message = "last ended with " + exitText(exit.Code) + " at " + stamp(exit.At)
	}
	return j
}

// notRunning tells an end from a beginning.
func (v view) notRunning(c state.Container, o state.ObservedContainer) judgement {
	obj := containerObject(c.ID)
	if done, ok := v.completion(c); ok {
		return v.ended(c, done)
	}
	if s := v.suspension(c.ID); s != "" {
		return judgement{PhasePending, string(plan.ReasonSuspended), s}
	}
	if left, ok := v.left[obj]; ok {
		return judgement{PhasePending, string(left.Reason.Code), left.Reason.Text}
	}
	for _, object := range []plan.Object{obj, imageObject(c.Spec.Image), v.namespaceObject()} {
		if r, failed := v.retry(object); failed {
			return judgement{PhaseBackoff, reasonRetrying, retryText(r)}
		}
	}
	if phase, working := workingPhase(v.Busy.Running[imageObject(c.Spec.Image)]); working {
		return judgement{phase, reasonWorking, "image " + c.Spec.Image}
	}
	if w, waits := v.waits[obj]; waits {
		if o.Recorded && !w.Until.IsZero() {
			return judgement{PhaseBackoff, reasonCrashLoop, fmt.Sprintf("%s; started again at %s; `kukeon-reconciler logs %s/%s --previous` shows its output",
				w.For, stamp(w.Until), v.Accepted.Name, c.Name)}
		}
		return judgement{PhasePending, reasonWaiting, join("waits for "+w.For, v.imageTrouble(c))}
	}
	if op, ok := v.planned[obj]; ok {
		return judgement{PhasePending, string(op.Because().Code), v.progress(obj)}
	}
	if l, ok := v.left[v.namespaceObject()]; ok {
		return judgement{PhasePending, string(l.Reason.Code), fmt.Sprintf("namespace %s: %s", v.Accepted.Namespace, l.Reason.Text)}
	}
	return judgement{PhasePending, reasonNotStarted, join("not started yet", v.progress(v.namespaceObject()))}
}

// ended tells success from failure.
func (v view) ended(c state.Container, done state.Completion) judgement {
	if !done.Failed() {
		return judgement{PhaseCompleted, reasonFinished, "finished at " + stamp(done.Time)}
	}
	text := fmt.Sprintf("ended with %s at %s", exitText(done.Code), stamp(done.Time))
	if done.Code == state.ExitUnknown {
		text = "it was started, and nobody saw how it ended"
	}
	return judgement{PhaseFailed, reasonExitFailure, fmt.Sprintf(
		"%s; restartPolicy %s: it is not run again until its declaration changes; `kukeon-reconciler logs %s/%s` shows its output",
		text, c.Spec.Restart.Policy, v.Accepted.Name, c.Name)}
}

// imageTrouble says what is in the way of the container's image; empty when nothing is.
func (v view) imageTrouble(c state.Container) string {
	obj := imageObject(c.Spec.Image)
	if r, failed := v.retry(obj); failed {
		return retryText(r)
	}
	if w, ok := v.waits[obj]; ok && v.Busy.Running[obj] == nil {
		return "which waits for " + w.For
	}
	return ""
}

// progress says what is done, or would be done, about the object; empty when nothing is.
func (v view) progress(obj plan.Object) string {
	if op, ok := v.Busy.Running[obj]; ok {
		return fmt.Sprintf("%s: %s", op, op.Because())
	}
	op, ok := v.planned[obj]
	switch {
	case ok && v.ObserveOnly:
		return fmt.Sprintf("observe only: would %s: %s", op, op.Because())
	case ok:
		return fmt.Sprintf("%s: %s", op, op.Because())
	}
	if r, failed := v.retry(obj); failed {
		return retryText(r)
	}
	if w, waits := v.waits[obj]; waits {
		return "waits for " + w.For
	}
	return ""
}

// inSync reports whether the container is as declared and nothing is planned about it.
func (v view) inSync(c state.Container, o state.ObservedContainer, phase Phase) bool {
	switch phase {
	case PhaseRunning, PhaseCompleted, PhaseFailed:
	default:
		return false
	}
	obj, image := containerObject(c.ID), imageObject(c.Spec.Image)
	for _, object := range []plan.Object{obj, image} {
		_, busy := v.Busy.Running[object]
		_, planned := v.planned[object]
		_, waits := v.waits[object]
		if busy || planned || waits {
			return false
		}
	}
	// A suspended container is not planned for, so the plan proves nothing: compare.
	made := o.Record != nil && len(o.Record.Spec.Changes(c.Spec)) == 0
	return made || phase != PhaseRunning && v.suspension(c.ID) == ""
}

// unknownReason is Stuck when it has gone on for too long to be a hiccup.
func (v view) unknownReason(o state.ObservedContainer) string {
	if !o.Task.Since.IsZero() && v.Now.Sub(o.Task.Since) >= state.StuckAfter {
		return reasonStuck
	}
	return string(plan.ReasonUnknown)
}

func (v view) unknownText(o state.ObservedContainer) string {
	text := "its task cannot be seen just now (the shim does not answer); nothing is done to it"
	if v.unknownReason(o) == reasonStuck {
		return fmt.Sprintf("%s; so for over %s: look with `ctr -n %s tasks ls`, end its containerd-shim-runc-v2 process if that hangs",
			text, state.StuckAfter, v.Accepted.Namespace)
	}
	return text
}

func (v view) namespaceObject() plan.Object {
	return plan.Object{Kind: plan.NamespaceObject, Name: string(v.Accepted.Namespace)}
}

func retryText(r plan.Retry) string {
	return fmt.Sprintf("%s; tried again at %s", r.Error, stamp(r.At))
}

// exitText names an exit as people know it.
func exitText(code int) string {
	switch {
	case code == state.ExitUnknown:
		return "an exit code that nobody saw"
	case code > 128 && code <= 128+64:
		return fmt.Sprintf("exit code %d (signal %d)", code, code-128)
	}
	return fmt.Sprintf("exit code %d", code)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// join puts the texts that are not empty behind one another.
func join(texts ...string) string {
	var some []string
	for _, t := range texts {
		if t != "" {
			some = append(some, t)
		}
	}
	return strings.Join(some, "; ")
}
