package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Guard stands before a registry. It returns the writer for the registry's answer, or nil when it has answered itself.
type Guard func(w http.ResponseWriter, req *http.Request) http.ResponseWriter

// SetGuard puts a guard before the registry; nil takes it away. Pushes go past it.
func (r *Registry) SetGuard(g Guard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guard = g
}

// NewTLSRegistry starts an empty registry that speaks TLS only, and returns the certificate, in PEM, that it is to be
// trusted by.
func NewTLSRegistry(ctx context.Context) (*Registry, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	r, err := newRegistry(ctx, &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	return r, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// BasicAuth lets those in who know a user's password.
func BasicAuth(passwords map[string]string) Guard {
	return func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		user, password, ok := req.BasicAuth()
		if ok && password != "" && passwords[user] == password {
			return w
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}
}

// TokenAuth lets those in who have a token, which it gives to those who know a user's password.
func TokenAuth(passwords map[string]string) Guard {
	const token = "let-me-in"
	return func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		user, password, _ := req.BasicAuth()
		if req.URL.Path == "/token" {
			if req.Method == http.MethodPost {
				user, password = req.PostFormValue("username"), req.PostFormValue("password")
			}
			if password == "" || passwords[user] != password {
				w.WriteHeader(http.StatusUnauthorized)
				return nil
			}
			_, _ = fmt.Fprintf(w, `{"token":%q,"access_token":%[1]q}`, token) // the client is gone otherwise
			return nil
		}
		if req.Header.Get("Authorization") == "Bearer "+token {
			return w
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, req.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}
}

// Answering has every request answered with a status.
func Answering(status int) Guard {
	return func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		w.WriteHeader(status)
		return nil
	}
}

// isBlob reports whether somebody fetches a blob.
func isBlob(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/")
}

// Truncating cuts the first n blobs off in the middle.
func Truncating(n int) Guard {
	return spoilBlobs(n, func(w http.ResponseWriter, p []byte) (int, error) {
		_, _ = w.Write(p[:len(p)/2]) // the connection ends either way
		panic(http.ErrAbortHandler)
	})
}

// Falsifying changes a byte of the first n blobs.
func Falsifying(n int) Guard {
	return spoilBlobs(n, func(w http.ResponseWriter, p []byte) (int, error) {
		other := append([]byte{p[0] ^ 1}, p[1:]...)
		return w.Write(other)
	})
}

func spoilBlobs(n int, first func(http.ResponseWriter, []byte) (int, error)) Guard {
	var mu sync.Mutex
	return func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		mu.Lock()
		defer mu.Unlock()
		if !isBlob(req) || n == 0 {
			return w
		}
		n--
		return &spoiled{w, first}
	}
}

// spoiled hands the first write of an answer to somebody else.
type spoiled struct {
	http.ResponseWriter
	first func(http.ResponseWriter, []byte) (int, error)
}

func (w *spoiled) Write(p []byte) (int, error) {
	if first := w.first; first != nil {
		w.first = nil
		return first(w.ResponseWriter, p)
	}
	return w.ResponseWriter.Write(p)
}

// Throttling sends blobs at so many bytes a second, each.
func Throttling(bytesPerSecond int) Guard {
	return func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		if !isBlob(req) {
			return w
		}
		return &throttled{w, req.Context(), bytesPerSecond}
	}
}

type throttled struct {
	http.ResponseWriter
	ctx            context.Context
	bytesPerSecond int
}

// shares is in how many parts a throttled second is sent.
const shares = 10

func (w *throttled) Write(p []byte) (sent int, err error) {
	tick := time.NewTicker(time.Second / shares)
	defer tick.Stop()
	for len(p) > 0 {
		n, err := w.ResponseWriter.Write(p[:min(len(p), max(1, w.bytesPerSecond/shares))])
		sent += n
		if err != nil {
			return sent, err
		}
		p = p[n:]
		if f, ok := w.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			return sent, w.ctx.Err()
		}
	}
	return sent, nil
}
