package plan

import (
	"fmt"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// imageFor plans the image of a container that is about to be made, and reports whether it is ready. The
// container waits otherwise.
func (d *differ) imageFor(c state.Container) bool {
	if d.image(c.Spec.Image, c.Spec.PullPolicy, c.FieldOrigin("image"), true) {
		return true
	}
	d.wait(containerObject(c.ID), "image "+c.Spec.Image, time.Time{})
	return false
}

// image plans that a reference is present and unpacked, once per pass, and reports whether it is. A tag with
// policy Always is looked up again when a container is about to be made of it; a local image suffices when that
// fails.
func (d *differ) image(ref string, policy state.PullPolicy, origin state.Origin, making bool) bool {
	i, there := d.have.FindImage(ref)
	usable := there && i.Unpacked
	stale := making && policy == state.PullAlways && (i.LookedUp.IsZero() || d.now.Sub(i.LookedUp) > state.ImageFresh)
	unpackable := there && !i.Incomplete
	switch {
	case d.awaitImport(ref, !usable && !unpackable, making):
		return false
	case usable && !stale:
		return true
	case !usable && !unpackable && policy == state.PullNever:
		d.wait(Object{ImageObject, ref}, fmt.Sprintf("an import (imagePullPolicy Never): `kukeon-reconciler images import -r %s FILE`",
			d.want.Realm.Name), time.Time{})
		return false
	case d.images[ref]:
		return false
	}
	d.images[ref] = true
	pull := func(why Reason, refresh bool) {
		d.do(Pull{base{why}, ref, refresh, d.want.Realm.Credentials})
	}
	switch {
	case usable:
		pull(Reason{ReasonRefresh, "imagePullPolicy Always: the tag is looked up", origin}, true)
	case unpackable:
		d.do(Unpack{base{Reason{ReasonMissing, "image is there and not unpacked", origin}}, ref})
	case there:
		pull(Reason{ReasonDrift, "content of the image is missing", origin}, false)
	default:
		pull(Reason{ReasonMissing, "image missing", origin}, false)
	}
	return false
}
