package ctrd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// ErrIncomplete is the error of a pull whose registry has the image, and not all that it is made of.
var ErrIncomplete = errors.New("parts of the image are missing")

// PlatformError is the error of an image that is not made for this host.
type PlatformError struct {
	// Offers are the platforms that it is made for.
	Offers []string
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("it is made for %s, and this host is %s", strings.Join(e.Offers, ", "), platforms.DefaultString())
}

// HostsError is the error of a description of hosts, hosts.toml, that cannot be read.
type HostsError struct{ Err error }

func (e *HostsError) Error() string { return e.Err.Error() }
func (e *HostsError) Unwrap() error { return e.Err }

// silence bounds the wait for a registry's next byte. An answer as a whole may take as long as it likes.
const silence = time.Minute

// impatient is a connection whose reads end when nothing comes for a while: a registry that says nothing any more would
// keep other images waiting.
type impatient struct{ net.Conn }

// Read implements net.Conn.
func (c impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Pull implements Services. It only asks for what the host's platform needs.
func (c *Client) Pull(ctx context.Context, ns, ref string, o PullOptions) (images.Image, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	// The library logs what it returns as an error anyway.
	ctx = log.WithLogger(ctx, logrus.NewEntry(&logrus.Logger{Out: io.Discard}))
	r := newResolver(ctx, o)
	defer r.close()
	image, err := c.client.Pull(ctx, ref,
		containerd.WithResolver(r),
		containerd.WithPlatformMatcher(platforms.Default()),
		containerd.WithPullLabels(o.Labels))
	switch {
	case err == nil:
		return image.Metadata(), nil
	case r.found == nil:
		return images.Image{}, err
	case errdefs.IsNotFound(err):
		return images.Image{}, errors.Join(c.suits(ctx, *r.found), fmt.Errorf("%w: %w", ErrIncomplete, err))
	case errdefs.IsFailedPrecondition(err):
		return images.Image{}, errors.Join(err, c.dropDamaged(ctx, *r.found))
	}
	return images.Image{}, err
}

// dropDamaged forgets the parts of an image that have arrived in full and are not what their digest says. Whoever fetches
// the image again would find each of them complete, ask for nothing, and fail in the same way for ever.
func (c *Client) dropDamaged(ctx context.Context, image ocispec.Descriptor) error {
	store := c.client.ContentStore()
	return images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		name := remotes.MakeRefKey(ctx, d)
		if status, err := store.Status(ctx, name); err == nil && status.Offset >= d.Size {
			return nil, absent(store.Abort(ctx, name))
		}
		children, err := images.Children(ctx, store, d)
		return children, absent(err)
	}), image)
}

// suits returns a PlatformError when an image is made for several platforms, and this host is none of them. What cannot
// be read says nothing.
func (c *Client) suits(ctx context.Context, image ocispec.Descriptor) error {
	offers, err := images.Platforms(ctx, c.client.ContentStore(), image)
	if err != nil || len(offers) == 0 {
		return nil //nolint:nilerr // an image that is not all there is another error's business
	}
	var names []string
	for _, p := range offers {
		if platforms.Default().Match(p) {
			return nil
		}
		names = append(names, platforms.Format(p))
	}
	return &PlatformError{names}
}

// resolver finds images for one pull: a token never outlives it. Hosts are as containerd's certs.d says; those on this
// host may speak plain HTTP.
type resolver struct {
	remotes.Resolver
	found *ocispec.Descriptor // what the reference leads to, once the registry has told
	idle  []*http.Transport
	// misread is the error of a description of hosts that cannot be read.
	misread error
}

// Levels implements logrus.Hook.
func (r *resolver) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

// Fire implements logrus.Hook: a description of hosts that cannot be read is all that the library logs as an error while
// it reads it, and it goes on without.
func (r *resolver) Fire(e *logrus.Entry) error {
	err, ok := e.Data[logrus.ErrorKey].(error)
	if !ok {
		err = errors.New(e.Message)
	}
	r.misread = &HostsError{err}
	return nil
}

func newResolver(ctx context.Context, o PullOptions) *resolver {
	r := &resolver{}
	listening := &logrus.Logger{Out: io.Discard, Hooks: logrus.LevelHooks{}, Level: logrus.ErrorLevel, Formatter: &logrus.TextFormatter{}}
	listening.AddHook(r)
	ctx = log.WithLogger(ctx, logrus.NewEntry(listening))
	hosts := config.HostOptions{
		// Without a function a registry that wants Basic auth looks like one that wants something unheard of.
		Credentials: func(string) (string, string, error) { return "", "", nil },
		UpdateClient: func(client *http.Client) error {
			t, ok := client.Transport.(*http.Transport)
			if !ok || slices.Contains(r.idle, t) {
				return nil
			}
			dial := t.DialContext
			t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return impatient{conn}, nil
			}
			r.idle = append(r.idle, t)
			return nil
		},
	}
	if o.Login != nil {
		hosts.Credentials = o.Login
	}
	if o.HostsDir != "" {
		hosts.HostDir = config.HostDirFromRoot(o.HostsDir)
	}
	registries := config.ConfigureHosts(ctx, hosts)
	r.Resolver = docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		list, err := registries(host)
		return list, cmp.Or(r.misread, err)
	}})
	return r
}

// Resolve implements remotes.Resolver.
func (r *resolver) Resolve(ctx context.Context, ref string) (string, ocispec.Descriptor, error) {
	name, d, err := r.Resolver.Resolve(ctx, ref)
	if err == nil {
		r.found = &d
	}
	return name, d, err
}

// close ends the connections that are kept for another request.
func (r *resolver) close() {
	for _, t := range r.idle {
		t.CloseIdleConnections()
	}
}
