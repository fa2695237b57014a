package ctrd_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// canary is a password that must not appear anywhere.
const canary = "canary-71c5-do-not-print"

// served starts a registry with an image of its own content, and returns its reference.
func served(t *testing.T) (*testenv.Registry, string) {
	t.Helper()
	registry, err := testenv.NewRegistry(context.Background())
	must(t, err)
	t.Cleanup(func() { must(t, registry.Close()) })
	return registry, push(t, registry, "app:1", testenv.RandomImage(64<<10, 2))
}

func push(t *testing.T, r *testenv.Registry, name string, image v1.Image) string {
	t.Helper()
	ref, err := r.Push(t.Context(), name, image)
	must(t, err)
	return ref
}

// pull pulls, and checks that no secret is told.
func (r *realHost) pull(ref string, credentials ...state.Credential) error {
	r.Helper()
	op := plan.Pull{Ref: ref, Credentials: credentials}
	err := r.host.Do(r.Context(), r.ns, realm, op)
	for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", op), fmt.Sprintf("%#v", op)} {
		if strings.Contains(text, canary) {
			r.Errorf("a password is told: %s", text)
		}
	}
	return err
}

// sweep ends the leases that failed pulls keep for the next try.
func (r *realHost) sweep() {
	r.Helper()
	r.host.Resync(r.ns)
	o, err := r.host.Observe(r.Context(), r.ns)
	must(r, err)
	for _, l := range o.Leases {
		r.do(plan.DeleteLease{ID: l.ID})
	}
}

// hosts writes the hosts.toml of a registry.
func (r *realHost) hosts(registry *testenv.Registry, text string) {
	r.Helper()
	dir := filepath.Join(r.dir, "certs.d", registry.Host)
	must(r, os.MkdirAll(dir, 0o700))
	must(r, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600))
}

// wantError wants an error with a text; one that a person has to mend when stalled.
func wantError(t *testing.T, err error, stalled bool, text string) {
	t.Helper()
	if err == nil || outcome.IsStalled(err) != stalled || !strings.Contains(err.Error(), text) {
		t.Errorf("%v; want %q, stalled %t", err, text, stalled)
	}
}

func TestARealPrivateRegistryGivesImagesToThoseWhoMayHaveThem(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		for name, guard := range map[string]func(map[string]string) testenv.Guard{"Basic": testenv.BasicAuth, "Token": testenv.TokenAuth} {
			registry, ref := served(t)
			registry.SetGuard(guard(map[string]string{"robot": canary}))
			wantError(t, r.pull(ref), true, "does not give image "+ref+" to anonymous pulls; write spec.registryCredentials of realm main")
			wantError(t, r.pull(ref, state.Credential{Username: "robot", Password: canary + "-wrong"}), true,
				"does not give image "+ref+" to robot; mend spec.registryCredentials of realm main")
			wantError(t, r.pull(ref, state.Credential{Server: "elsewhere.example.com", Username: "robot", Password: canary}), true, "anonymous")
			file := filepath.Join(r.dir, "password")
			byFile := state.Credential{Server: registry.Host, Username: "robot", PasswordFile: file}
			wantError(t, r.pull(ref, byFile), true, "the password for registry "+registry.Host+" cannot be read")
			must(t, os.WriteFile(file, []byte("old\n"), 0o600))
			wantError(t, r.pull(ref, byFile), true, "to robot")
			must(t, os.WriteFile(file, []byte(canary+"\n"), 0o600))
			other := state.Credential{Username: "nobody", PasswordFile: "/nowhere"} // for other registries
			if err := r.pull(ref, other, byFile); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			must(t, os.Remove(file))
		}
	})
}

func TestARealRegistrysFaultsAreToldApart(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, ref := served(t)
		repository := strings.TrimSuffix(ref, ":1")
		wantError(t, r.pull(repository+":2"), true, "image "+repository+":2 does not exist in its registry; push it there")
		foreign, err := registry.PushForeign(t.Context(), "foreign:1")
		must(t, err)
		wantError(t, r.pull(foreign), true, "is not for this host: it is made for linux/s390x, and this host is ")
		for status, text := range map[int]string{
			http.StatusServiceUnavailable: "fails for image " + ref + ": it answers 503", http.StatusTooManyRequests: "it answers 429",
		} {
			registry.SetGuard(testenv.Answering(status))
			wantError(t, r.pull(ref), false, text)
		}
		registry.SetGuard(testenv.Answering(http.StatusForbidden))
		wantError(t, r.pull(ref), true, "anonymous")
		registry.SetGuard(nil)
		wantError(t, r.pull("127.0.0.1:1/none:1"), false, "registry 127.0.0.1:1 cannot be reached: dial tcp 127.0.0.1:1: connect: connection refused")
		wantError(t, r.pull("nobody.invalid/none:1"), false, "registry nobody.invalid cannot be reached")
		if err := r.pull(ref); err != nil {
			t.Error(err)
		}
	})
}

func TestARealImageThatArrivesDamagedIsFetchedAgain(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, ref := served(t)
		registry.SetGuard(testenv.Falsifying(20))
		wantError(t, r.pull(ref), false, "sent image "+ref+" damaged")
		registry.SetGuard(nil)
		if err := r.pull(ref); err != nil {
			t.Errorf("not mended: %v", err)
		}
	})
}

func TestARealDescriptionOfHostsThatCannotBeReadIsNotPassedOver(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, ref := served(t)
		r.hosts(registry, "server = http://")
		wantError(t, r.pull(ref), true, "at start of value; correct "+filepath.Join(r.dir, "certs.d", registry.Host, "hosts.toml"))
		r.hosts(registry, fmt.Sprintf("server = %q\nca = \"/nowhere/ca.pem\"\n", "https://"+registry.Host))
		wantError(t, r.pull(ref), true, "the description of registry "+registry.Host+" cannot be read")
		r.hosts(registry, fmt.Sprintf("server = %q\n", "http://"+registry.Host))
		if err := r.pull(ref); err != nil {
			t.Error(err)
		}
	})
}

func TestARealImageThatArrivesInPiecesIsPutTogether(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, ref := served(t)
		registry.SetGuard(testenv.Truncating(6))
		err := r.pull(ref)
		for range 6 { // the library itself asks for the rest a few times
			if err == nil {
				return
			}
			err = r.pull(ref)
		}
		t.Error(err)
	})
}

func TestARealRegistryOverTLSIsTrustedByItsCertificateOnly(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, certificate, err := testenv.NewTLSRegistry(context.Background())
		must(t, err)
		t.Cleanup(func() { must(t, registry.Close()) })
		ref := push(t, registry, "app:1", testenv.RandomImage(64<<10, 2))
		r.hosts(registry, fmt.Sprintf("server = %q\n", "https://"+registry.Host))
		wantError(t, r.pull(ref), true, "registry "+registry.Host+" cannot be trusted")
		plain, plainRef := served(t)
		r.hosts(plain, fmt.Sprintf("server = %q\n", "https://"+plain.Host))
		wantError(t, r.pull(plainRef), true, "cannot be trusted")
		ca := filepath.Join(r.dir, "ca.pem")
		must(t, os.WriteFile(ca, certificate, 0o600))
		r.hosts(registry, fmt.Sprintf("server = %q\nca = %q\n", "https://"+registry.Host, ca))
		if err := r.pull(ref); err != nil {
			t.Error(err)
		}
	})
}

func TestARealMirrorServesAndLearnsNoPassword(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		origin, ref := served(t)
		mirror, err := testenv.NewRegistry(context.Background())
		must(t, err)
		t.Cleanup(func() { must(t, mirror.Close()) })
		image := testenv.RandomImage(64<<10, 2)
		push(t, mirror, "app:1", image)
		var told []string
		mirror.SetGuard(func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			if a := req.Header.Get("Authorization"); a != "" {
				told = append(told, a)
			}
			return w
		})
		r.hosts(origin, fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+origin.Host, "http://"+mirror.Host))
		if err := r.pull(ref, state.Credential{Username: "robot", Password: canary}); err != nil {
			t.Error(err)
		}
		if len(origin.Requests()) > 0 || len(mirror.Requests()) == 0 || len(told) > 0 {
			t.Errorf("origin %v, mirror %v, told %v", origin.Requests(), mirror.Requests(), told)
		}
	})
}

func TestARealSlowPullIsCancelledAndGoesOnWhereItWas(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		defer r.sweep()
		registry, ref := served(t)
		registry.SetGuard(testenv.Throttling(1 << 10))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := r.host.Do(ctx, r.ns, realm, plan.Pull{Ref: ref})
		if !errors.Is(err, context.DeadlineExceeded) || errdefs.IsNotFound(err) {
			t.Errorf("%v", err)
		}
		registry.SetGuard(nil)
		if err := r.pull(ref); err != nil {
			t.Error(err)
		}
	})
}
