package status

import (
	"fmt"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
)

// Reasons of the conditions that no plan.ReasonCode and no container's reason covers.
const (
	reasonAllRunning   = "AllRunning"
	reasonNotReady     = "ContainersNotReady"
	reasonNoNamespace  = "NamespaceMissing"
	reasonRemoving     = "Removing"
	reasonRefused      = "ManifestsRefused"
	reasonFrozen       = "Frozen"
	reasonWithheld     = "Withheld"
	reasonRemovalHeld  = "RemovalHeld"
	reasonObserveOnly  = "ObserveOnly"
	reasonSettling     = "Settling"
	reasonNothingToDo  = "NothingToDo"
	reasonNothingInWay = "NothingInTheWay"
)

// named is how many objects a message names before it counts the rest.
const named = 3

// conditions judges the realm three times: does it work, is something being done, does it need a person.
func (v view) conditions(prev, r Realm) []Condition {
	out := []Condition{v.readyCondition(r), v.reconcilingCondition(r), v.stalledCondition(r)}
	for i := range out {
		c := &out[i]
		c.ObservedGeneration = r.ObservedGeneration
		c.LastTransitionTime = v.Now.UTC().Truncate(time.Second)
		if was := prev.Condition(c.Type); was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	return out
}

func (v view) readyCondition(r Realm) Condition {
	c := Condition{Type: ConditionReady, Status: False}
	switch {
	case v.Want.Removing:
		c.Reason, c.Message = reasonRemoving, join("the realm is being removed", v.Want.Why)
	case v.Accepted.Generation == 0:
		c.Reason, c.Message = reasonRefused, refusal(v.Accepted.Frozen)
	case v.Unavailable != "":
		c.Status, c.Reason, c.Message = Undetermined, reasonUnavailable, v.Unavailable
	case !v.Seen:
		c.Status, c.Reason, c.Message = Undetermined, reasonNotObserved, "the namespace was not observed yet"
	case r.Ready:
		c.Status, c.Reason, c.Message = True, reasonAllRunning, v.census(r)
		if v.Want.Suspended != "" {
			c.Reason, c.Message = string(plan.ReasonSuspended), v.Want.Suspended
		}
	default:
		c.Reason, c.Message = reasonNotReady, v.notReady(r)
		if c.Message == "" {
			c.Reason = reasonNoNamespace
			c.Message = join("the namespace is not there", v.progress(v.namespaceObject()))
		}
	}
	return c
}

// census counts the containers of a realm that is ready.
func (v view) census(r Realm) string {
	completed, suspended := 0, 0
	for _, c := range r.Containers {
		switch _, declared := v.Accepted.Find(c.ContainerID); {
		case !declared:
		case c.Phase == PhaseCompleted:
			completed++
		case c.Suspended != "" && c.Phase != PhaseRunning:
			suspended++
		}
	}
	text := fmt.Sprintf("%d of %d containers run", r.Running, r.Desired)
	if completed > 0 {
		text += fmt.Sprintf(", %d completed", completed)
	}
	if suspended > 0 {
		text += fmt.Sprintf(", %d suspended", suspended)
	}
	return text
}

// notReady names the containers that keep the realm from being ready; those with one reason together.
func (v view) notReady(r Realm) string {
	var texts []string
	names := map[string][]string{}
	for _, c := range v.counted(r) {
		if c.Phase == PhaseRunning || c.Phase == PhaseCompleted {
			continue
		}
		text := fmt.Sprintf("%s: %s", c.Phase, c.Message)
		if names[text] == nil {
			texts = append(texts, text)
		}
		names[text] = append(names[text], c.Name)
	}
	for i, text := range texts {
		verb := " is "
		if len(names[text]) > 1 {
			verb = " are "
		}
		texts[i] = enumerate(names[text]) + verb + text
	}
	return few(texts)
}

func (v view) reconcilingCondition(r Realm) Condition {
	c := Condition{Type: ConditionReconciling, Status: True}
	if len(v.Plan.Operations) > 0 {
		c.Reason = string(v.Plan.Operations[0].Because().Code)
	}
	doing := v.doing()
	switch {
	case v.Accepted.Generation == 0 && !v.Want.Removing:
		c.Status, c.Reason, c.Message = False, reasonRefused, "there is nothing to keep true"
	case v.Unavailable != "":
		c.Reason, c.Message = reasonUnavailable, "it goes on when containerd is back: "+v.Unavailable
	case !v.Seen:
		c.Reason, c.Message = reasonNotObserved, "the namespace is about to be observed"
	case v.Want.Suspended != "":
		c.Status, c.Reason, c.Message = False, string(plan.ReasonSuspended), v.Want.Suspended
	case v.ObserveOnly && len(v.Plan.Operations) > 0:
		c.Status, c.Reason, c.Message = False, reasonObserveOnly, "would "+few(r.Plan)
	case len(doing) > 0:
		c.Message = few(doing)
		if c.Reason == "" {
			c.Reason = reasonWorking
		}
	case v.retries() != "":
		c.Reason, c.Message = reasonRetrying, v.retries()
	case len(r.Waits) > 0:
		c.Reason, c.Message = reasonWaiting, few(r.Waits)
	case v.Unaccepted != "":
		c.Reason, c.Message = reasonSettling, v.Unaccepted
	default:
		c.Status, c.Reason, c.Message = False, reasonNothingToDo, "nothing to do"
	}
	return c
}

// doing prints what is under way and what is about to be.
func (v view) doing() []string {
	var out []string
	for _, w := range v.Plan.Waits { // in the order of the plan, which the map of running operations has not
		if op, running := v.Busy.Running[w.Object]; running {
			out = append(out, fmt.Sprintf("%s: %s", op, op.Because()))
		}
	}
	for _, o := range v.Plan.Operations {
		out = append(out, fmt.Sprintf("%s: %s", o, o.Because()))
	}
	return out
}

// retries names what failed and is tried again.
func (v view) retries() string {
	var out []string
	for _, w := range v.Plan.Waits {
		if r, failed := v.retry(w.Object); failed {
			out = append(out, fmt.Sprintf("%s: %s", w.Object, retryText(r)))
		}
	}
	return few(out)
}

func (v view) stalledCondition(r Realm) Condition {
	c := Condition{Type: ConditionStalled, Status: True}
	namespace := v.left[v.namespaceObject()].Reason
	held := v.held()
	switch {
	case v.Accepted.Generation == 0 && !v.Want.Removing:
		c.Reason, c.Message = reasonRefused, refusal(v.Accepted.Frozen)
	case v.Accepted.Frozen != "":
		c.Reason, c.Message = reasonFrozen, v.Accepted.Frozen+"; what was accepted before stays and is repaired; "+
			"correct the file, `kukeon-reconciler validate FILE` checks it"
	case len(held) > 0:
		c.Reason = reasonRemovalHeld
		c.Message = fmt.Sprintf("%s; put the files back, or let it be removed with `kukeon-reconciler confirm %s`", held[0].Why, held[0].ID)
	case v.Accepted.Withheld != "":
		c.Reason, c.Message = reasonWithheld, v.Accepted.Withheld+" stands in place of its manifest: nothing is changed or removed until the file has its name again"
	case v.namespaceBlocked():
		c.Reason, c.Message = string(namespace.Code), fmt.Sprintf("namespace %s is left alone: %s", v.Accepted.Namespace, namespace.Text)
	default:
		return v.stalledContainers(r)
	}
	return c
}

func refusal(why string) string {
	return join("nothing of it was ever accepted", why, "correct the file, `kukeon-reconciler validate FILE` checks it")
}

// stalledContainers looks for containers that stay as they are until a person does something.
func (v view) stalledContainers(r Realm) Condition {
	c := Condition{Type: ConditionStalled, Status: False, Reason: reasonNothingInWay, Message: "nothing is in the way"}
	var texts []string
	for _, one := range v.counted(r) {
		if one.Phase == PhaseFailed || one.Phase == PhaseConflict || one.Reason == reasonStuck {
			if texts == nil {
				c.Status, c.Reason = True, one.Reason
			}
			texts = append(texts, one.Name+": "+one.Message)
		}
	}
	if texts != nil {
		c.Message = few(texts)
	}
	return c
}

// headline is the condition that matters most to somebody who reads one line.
func headline(r Realm) Condition {
	ready, reconciling, stalled := r.Condition(ConditionReady), r.Condition(ConditionReconciling), r.Condition(ConditionStalled)
	switch {
	case stalled.Status == True:
		return stalled
	case ready.Status != True:
		return ready
	case reconciling.Status == True || reconciling.Reason == reasonObserveOnly:
		return reconciling
	}
	return ready
}

// few joins the first texts and counts the rest.
func few(texts []string) string {
	if more := len(texts) - named; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(texts[:named], "; "), more)
	}
	return strings.Join(texts, "; ")
}

// enumerate is few for names.
func enumerate(names []string) string {
	if more := len(names) - named; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:named], ", "), more)
	}
	return strings.Join(names, ", ")
}
