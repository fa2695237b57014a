package ctrd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// registryOf is the registry of a completed reference.
func registryOf(ref string) string {
	host, _, _ := strings.Cut(ref, "/")
	return host
}

// login is who a realm is while one image is pulled. It is used by one pull.
type login struct {
	registry    string // the image's
	credentials []state.Credential

	mu sync.Mutex // several parts of an image are fetched at a time
	// asked holds the users by whom registries were asked, by host, for the message when they refuse.
	asked map[string]string
	// failed is why a password could not be read, whatever else goes wrong.
	failed error
}

// user is by whom the image's own registry was asked; empty for nobody.
func (l *login) user() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[l.registry]
}

// unread is why a password could not be read; nil when none was missing.
func (l *login) unread() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// at returns the user and the password for a host. A credential without a server is for the image's own registry, and
// never told to a mirror of it.
func (l *login) at(host string) (user, password string, err error) {
	if host == "registry-1.docker.io" || host == "index.docker.io" { // where docker.io's images are served
		host = "docker.io"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, server := range []string{host, ""} {
		for _, c := range l.credentials {
			if c.Server != server || server == "" && host != l.registry {
				continue
			}
			password, err := passwordOf(c)
			if err != nil {
				l.failed = &outcome.Stalled{
					Why: "the password for registry " + host + " cannot be read", Remedy: "mend registryCredentials[].passwordFile", Err: err,
				}
				return "", "", l.failed
			}
			l.asked[host] = c.Username
			return c.Username, password, nil
		}
	}
	return "", "", nil
}

// maxPassword bounds a password file: a token takes a few kilobytes.
const maxPassword = 64 << 10

// passwordOf reads the password anew each time, so that one that was changed is used.
func passwordOf(c state.Credential) (string, error) {
	if c.PasswordFile == "" {
		return string(c.Password), nil
	}
	f, err := os.OpenFile(c.PasswordFile, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPassword {
		return "", fmt.Errorf("%s is no file of at most %d bytes", c.PasswordFile, maxPassword)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPassword))
	if err != nil {
		return "", err
	}
	password := strings.TrimSpace(string(data))
	if password == "" {
		return "", fmt.Errorf("%s is empty", c.PasswordFile)
	}
	return password, nil
}

// answer is what a registry said instead of an image. The library's own error prints the URL, which may hold a token
// when the registry has sent us elsewhere.
type answer struct {
	remoteserrors.ErrUnexpectedStatus
}

func (e answer) Error() string { return "it answers " + e.Status }

// pullError says what is wrong with a pull that failed, and what a person can do about it. What is wrong is told by the
// kind of the error, never by its text.
func (h *Host) pullError(ctx context.Context, at target, ref string, l *login, err error) error {
	if unread := l.unread(); unread != nil { // the library may return what a mirror said instead
		return unread
	}
	elsewhere := h.Remedy(ctx, at.realm, at.ns, ref)
	byHand := fmt.Sprintf("import it with `kukeon-reconciler images import -r %s FILE`", at.realm)
	stalled := func(why, remedy string, err error) error {
		if elsewhere != "" {
			remedy = elsewhere
		}
		return &outcome.Stalled{Why: why, Remedy: remedy, Err: err}
	}
	retried := func(what string, err error) error {
		if elsewhere != "" {
			return fmt.Errorf("%s: %w; %s", what, err, elsewhere)
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	var said answer
	errors.As(err, &said.ErrUnexpectedStatus)
	var platform *PlatformError
	switch registry, status := "registry "+registryOf(ref), said.StatusCode; {
	case errors.As(err, &platform):
		return stalled("image "+ref+" is not for this host", "push it for this platform, too", platform)
	case errors.Is(err, ErrIncomplete):
		return stalled("image "+ref+" is not complete in its registry", "push it again, or "+byHand, nil)
	case status == http.StatusNotFound, errdefs.IsNotFound(err):
		return stalled("image "+ref+" does not exist in its registry", "push it there, or "+byHand, nil)
	case status == http.StatusUnauthorized, status == http.StatusForbidden, errors.Is(err, docker.ErrInvalidAuthorization):
		elsewhere = "" // that a tenant may not have an image is no reason to take it from another one
		if l.user() == "" {
			return stalled(registry+" does not give image "+ref+" to anonymous pulls",
				fmt.Sprintf("write spec.registryCredentials of realm %s, or %s", at.realm, byHand), nil)
		}
		return stalled(fmt.Sprintf("%s does not give image %s to %s", registry, ref, l.user()),
			"mend spec.registryCredentials of realm "+string(at.realm), nil)
	case errors.As(err, new(*HostsError)), errors.As(err, new(*fs.PathError)):
		return stalled("the description of "+registry+" cannot be read", "correct "+h.hostsFile(ref), err)
	case untrusted(err):
		return stalled(registry+" cannot be trusted", "say which certificate it has, or that it has none, in "+h.hostsFile(ref), bare(err))
	case status != 0:
		return retried(registry+" fails for image "+ref, said)
	case unreachable(err):
		return retried(registry+" cannot be reached", bare(err))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return retried("the transfer of image "+ref+" broke off, and goes on where it was", bare(err))
	case damaged(err):
		return retried(registry+" sent image "+ref+" damaged", bare(err))
	}
	return retried("pulling "+ref, err)
}

// hostsFile is where a host's registry is described.
func (h *Host) hostsFile(ref string) string {
	dir := h.cfg.RegistryConfigDir
	if dir == "" {
		dir = "certs.d"
	}
	return filepath.Join(dir, registryOf(ref), "hosts.toml")
}

// untrusted tells a fault of TLS: a certificate that proves nothing, or a side that does not speak it.
func untrusted(err error) bool {
	var op *net.OpError
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.RecordHeaderError)) ||
		errors.Is(err, http.ErrSchemeMismatch) ||
		errors.As(err, &op) && op.Op == "remote error" // an alert: the registry wants a certificate of ours
}

// unreachable tells that no answer came.
func unreachable(err error) bool {
	return errors.As(err, new(*url.Error)) || errors.As(err, new(*net.OpError)) || errors.As(err, new(*net.DNSError))
}

// damaged tells that what came is not what the image's digests promise.
func damaged(err error) bool { return errdefs.IsFailedPrecondition(err) }

// bare is the error without the URL that was asked, which may hold a token.
func bare(err error) error {
	if u := new(url.Error); errors.As(err, &u) {
		return u.Err
	}
	return err
}
