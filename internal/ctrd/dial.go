package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// How the connection comes back after an outage. The client's own default waits up to 10 s between two attempts, so
// that a containerd that was away for a minute is noticed up to 5 s late.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectMax   = 500 * time.Millisecond
	connectTimeout = time.Second
)

// Client is a real containerd. It is made by Dial.
type Client struct {
	conn   *grpc.ClientConn
	client *containerd.Client
}

var _ Services = (*Client)(nil)

// Dial returns the containerd that listens on the unix socket at the address. The connection is made when it is
// needed and made again whenever it breaks; until then calls fail with errdefs.ErrUnavailable. The options are
// added to our own: interceptors, for the most part.
func Dial(address string, options ...grpc.DialOption) (*Client, error) {
	conn, err := grpc.NewClient(dialer.DialAddress(address), append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectFirst, Multiplier: 2, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	records := keepLabels{containerd.NewImageStoreFromClient(imagesapi.NewImagesClient(conn))}
	client, err := containerd.NewWithConn(conn, containerd.WithServices(containerd.WithImageStore(records)))
	if err != nil {
		_ = conn.Close() // nothing was sent on it
		return nil, err
	}
	return &Client{conn: conn, client: client}, nil
}

// Close ends the connection and everything that is under way on it.
func (c *Client) Close() error { return c.conn.Close() }

// ServerID implements Services.
func (c *Client) ServerID(ctx context.Context) (string, error) {
	s, err := c.client.Server(ctx)
	return s.UUID, err
}

// Version implements Services.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.client.Version(ctx)
	return strings.TrimPrefix(v.Version, "v"), errgrpc.ToNative(err)
}

// Subscribe implements Services.
func (c *Client) Subscribe(ctx context.Context) (<-chan *events.Envelope, <-chan error) {
	ch, ended := c.client.EventService().Subscribe(ctx)
	errs := make(chan error, 1)
	go func() {
		defer close(errs)
		err, ok := <-ended
		switch {
		case !ok: // the client says nothing when the context ends while nobody reads the events
			err = ctx.Err()
		case errors.Is(err, io.EOF): // a daemon that ends in good order closes the stream without an error
			err = fmt.Errorf("end of the event stream: %w", errdefs.ErrUnavailable)
		}
		errs <- err
	}()
	return ch, errs
}

// Namespaces implements Services.
func (c *Client) Namespaces(ctx context.Context) ([]string, error) {
	return c.client.NamespaceService().List(ctx)
}

// NamespaceLabels implements Services. Containerd answers no labels for a namespace that does not exist, so in that
// case the list has to tell.
func (c *Client) NamespaceLabels(ctx context.Context, ns string) (map[string]string, error) {
	labels, err := c.client.NamespaceService().Labels(ctx, ns)
	if err != nil || len(labels) > 0 {
		return labels, err
	}
	list, err := namespacesapi.NewNamespacesClient(c.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	for _, n := range list.Namespaces {
		if n.Name == ns {
			return n.Labels, nil
		}
	}
	return nil, fmt.Errorf("namespace %q: %w", ns, errdefs.ErrNotFound)
}

// CreateNamespace implements Services.
func (c *Client) CreateNamespace(ctx context.Context, ns string, labels map[string]string) error {
	// Containerd 1.6 makes the namespace and then fails to tell so, unless the request itself names a namespace.
	return c.client.NamespaceService().Create(namespaces.WithNamespace(ctx, ns), ns, labels)
}

// SetNamespaceLabel implements Services.
func (c *Client) SetNamespaceLabel(ctx context.Context, ns, key, value string) error {
	return c.client.NamespaceService().SetLabel(namespaces.WithNamespace(ctx, ns), ns, key, value)
}

// DeleteNamespace implements Services.
func (c *Client) DeleteNamespace(ctx context.Context, ns string) error {
	return c.client.NamespaceService().Delete(namespaces.WithNamespace(ctx, ns), ns)
}

// Leases implements Services.
func (c *Client) Leases(ctx context.Context, ns string) ([]leases.Lease, error) {
	return c.client.LeasesService().List(namespaces.WithNamespace(ctx, ns))
}

// CreateLease implements Services.
func (c *Client) CreateLease(ctx context.Context, ns, id string, expires time.Duration) error {
	_, err := c.client.LeasesService().Create(namespaces.WithNamespace(ctx, ns),
		leases.WithID(id), leases.WithExpiration(expires))
	return err
}

// DeleteLease implements Services.
func (c *Client) DeleteLease(ctx context.Context, ns, id string) error {
	return c.client.LeasesService().Delete(namespaces.WithNamespace(ctx, ns), leases.Lease{ID: id})
}
