// Package proxy is a transparent gRPC proxy in front of a containerd: it sees, counts and can fail every call.
//
// It knows no service: bytes pass as they are, streams included. A test starts one between the program under test and
// the daemon, and looks at what went through:
//
//	p, err := proxy.Start(socket, daemon.Address)
//	p.Hook(func(c proxy.Call) proxy.Fault {          // at each call, before it is passed on
//		if c.Write == 3 {
//			return proxy.Fault{After: proxy.Lose} // carried out, but the reply is lost
//		}
//		return proxy.Fault{}
//	})
//	... p.Writes() ... p.Reset() ... p.Close()
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxMessage is above containerd's own limit of 16 MiB, so that the proxy is never the one that refuses.
const maxMessage = 32 << 20

// Call is one call that came in. Each message of Content.Write, which the daemon answers one by one, is a call.
type Call struct {
	// Method is the last part of the service and the method, "Tasks.Create".
	Method    string
	Namespace string
	// Request is the first message, as sent on the wire: a protobuf.
	Request []byte
	// Write numbers the calls that change something, from 1 on, since the start or the last Reset; 0 is a read.
	Write int
	// Done says that the daemon has carried it out and answered so, whatever became of the answer.
	Done bool
}

func (c Call) String() string { return fmt.Sprintf("%s in %q", c.Method, c.Namespace) }

// Fault says what becomes of a call. Each function may do whatever the test wants at this moment, such as to kill a
// process; an error of it is what the caller gets for an answer.
type Fault struct {
	// Before runs before the call is passed on; after an error it never is.
	Before func() error
	// After runs when the daemon has carried the call out. A unary call's reply is withheld until then, and so is the
	// answer to a message of Content.Write; of another stream, the messages have passed already and only its end is
	// still to come.
	After func() error
}

// Lose answers as if the connection had broken.
func Lose() error { return status.Error(codes.Unavailable, "the test lost it") }

// Proxy is a running proxy. Its methods may be called at any time.
type Proxy struct {
	// Address is the path of the socket that it serves.
	Address string

	server   *grpc.Server
	upstream *grpc.ClientConn
	served   chan struct{}
	pumps    sync.WaitGroup

	mu      sync.Mutex
	hook    func(Call) Fault
	writes  []*Call
	pending map[*Call]time.Time // writes that came in and were not answered yet, since when
}

// Start serves on a new unix socket what the daemon behind the other one answers. The daemon may come and go.
func Start(socket, daemon string) (*Proxy, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	retry := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	upstream, err := grpc.NewClient("unix://"+daemon,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	p := &Proxy{Address: socket, upstream: upstream, served: make(chan struct{}), pending: map[*Call]time.Time{}}
	p.server = grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.UnknownServiceHandler(p.handle),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	go func() {
		defer close(p.served)
		_ = p.server.Serve(listener) // ends by Close; clients notice anything else
	}()
	return p, nil
}

// Close ends all calls under way and removes the socket.
func (p *Proxy) Close() error {
	p.server.Stop()
	<-p.served
	p.pumps.Wait()
	if err := os.Remove(p.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, p.upstream.Close())
	}
	return p.upstream.Close()
}

// Hook sets what is asked at each call, in the caller's goroutine; nil lets everything pass.
func (p *Proxy) Hook(hook func(Call) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

// Writes returns the writes that came in since the start or the last Reset, failed ones included, in order.
func (p *Proxy) Writes() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	writes := make([]Call, 0, len(p.writes))
	for _, c := range p.writes {
		writes = append(writes, *c)
	}
	return writes
}

// Pending tells of each write that has come in and was not answered yet, and for how long; in no particular order.
func (p *Proxy) Pending() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var calls []string
	for c, since := range p.pending {
		calls = append(calls, fmt.Sprintf("%s for %v", c, time.Since(since).Round(time.Millisecond)))
	}
	return calls
}

// Reset forgets the writes seen so far.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = nil
}

// register records a call and asks the hook about it.
func (p *Proxy) register(c *Call) Fault {
	p.mu.Lock()
	hook := p.hook
	if !reads[c.Method] {
		p.pending[c] = time.Now()
		c.Write = len(p.writes) + 1
		p.writes = append(p.writes, c)
	}
	asked := *c
	p.mu.Unlock()
	if hook == nil {
		return Fault{}
	}
	return hook(asked)
}

// answered notes that the caller of a write has its answer.
func (p *Proxy) answered(c *Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, c)
}

// done notes what the daemon made of a call.
func (p *Proxy) done(c *Call, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Done = err == nil
}

// handle passes one call on, of any kind: a unary call is a stream with one message each way.
func (p *Proxy) handle(_ any, in grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(in)
	var first frame
	if err := in.RecvMsg(&first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	md, _ := metadata.FromIncomingContext(in.Context())
	call := &Call{
		Method:    shortName(path),
		Namespace: strings.Join(md.Get("containerd-namespace"), ","),
		Request:   first,
	}
	if dialogues[call.Method] {
		return p.dialogue(call, in, path, forwarded(md))
	}
	fault := p.register(call)
	defer p.answered(call)
	if fault.Before != nil {
		if err := fault.Before(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), forwarded(md)))
	defer cancel()
	out, err := p.upstream.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return err
	}
	if err := out.SendMsg(&first); err != nil && !errors.Is(err, io.EOF) {
		return err // after EOF the answer says why
	}
	// It reads until the stream ends, which is after our return: so Close waits for it, and not we.
	p.pumps.Go(func() { requests(in, out) })
	if fault.After != nil && !streams[call.Method] {
		return p.withheld(call, in, out, fault.After)
	}
	err = replies(in, out)
	p.done(call, err)
	if fault.After != nil {
		if lost := fault.After(); lost != nil {
			return lost
		}
	}
	return err
}

// dialogue passes a stream on in which the daemon answers each message with one: so each is a call of its own.
func (p *Proxy) dialogue(call *Call, in grpc.ServerStream, path string, md metadata.MD) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), md))
	defer cancel()
	out, err := p.upstream.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return err
	}
	for {
		if err := p.exchange(call, in, out); err != nil {
			return err
		}
		var next frame
		if err := in.RecvMsg(&next); errors.Is(err, io.EOF) {
			return errors.Join(out.CloseSend(), replies(in, out))
		} else if err != nil {
			return err
		}
		call = &Call{Method: call.Method, Namespace: call.Namespace, Request: next}
	}
}

// exchange passes one message of a dialogue on, and its answer back.
func (p *Proxy) exchange(call *Call, in grpc.ServerStream, out grpc.ClientStream) error {
	fault := p.register(call)
	defer p.answered(call)
	if fault.Before != nil {
		if err := fault.Before(); err != nil {
			return err
		}
	}
	message := frame(call.Request)
	if err := out.SendMsg(&message); err != nil && !errors.Is(err, io.EOF) {
		return err // after EOF the answer says why
	}
	if fault.After == nil {
		fault.After = func() error { return nil }
	}
	return p.withheld(call, in, out, fault.After)
}

// withheld lets a unary call's reply go once after has agreed.
func (p *Proxy) withheld(call *Call, in grpc.ServerStream, out grpc.ClientStream, after func() error) error {
	var reply frame
	err := out.RecvMsg(&reply)
	p.done(call, err)
	if lost := after(); lost != nil {
		return lost
	}
	if err != nil {
		return err
	}
	return in.SendMsg(&reply)
}

// requests passes on what the client sends after its first message.
func requests(in grpc.ServerStream, out grpc.ClientStream) {
	for {
		var m frame
		if err := in.RecvMsg(&m); err != nil {
			_ = out.CloseSend() // the daemon's answer says what came of it
			return
		}
		if err := out.SendMsg(&m); err != nil {
			return // replies sees why
		}
	}
}

// replies passes on what the daemon answers, and returns how it ended. Only messages and the final status pass:
// containerd puts nothing of its own into headers and trailers.
func replies(in grpc.ServerStream, out grpc.ClientStream) error {
	for {
		var m frame
		err := out.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := in.SendMsg(&m); err != nil {
			return err
		}
	}
}

// forwarded are the headers that are the call's and not the connection's: the namespace, the lease.
func forwarded(md metadata.MD) metadata.MD {
	out := metadata.MD{}
	for key, values := range md {
		if strings.HasPrefix(key, "containerd-") {
			out[key] = values
		}
	}
	return out
}
