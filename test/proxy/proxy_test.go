package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	create    = "/containerd.services.tasks.v1.Tasks/Create"
	get       = "/containerd.services.tasks.v1.Tasks/Get"
	write     = "/containerd.services.content.v1.Content/Write"
	streaming = "/containerd.services.streaming.v1.Streaming/Stream"
	subscribe = "/containerd.services.events.v1.Events/Subscribe"
)

// stage is a proxy in front of a server that answers each message with itself and its namespace; the message "no"
// with NotFound, and "for ever" with silence.
type stage struct {
	*Proxy
	client  *grpc.ClientConn
	carried atomic.Int32 // calls that reached the server
}

func newStage(t *testing.T) *stage {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	s, dir := &stage{}, t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "server"))
	check(t, err)
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.UnknownServiceHandler(s.echo))
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); check(t, <-served) })
	s.Proxy, err = Start(filepath.Join(dir, "proxy"), filepath.Join(dir, "server"))
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	s.client, err = grpc.NewClient("unix://"+s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	check(t, err)
	t.Cleanup(func() { check(t, s.client.Close()) })
	return s
}

func (s *stage) echo(_ any, stream grpc.ServerStream) error {
	s.carried.Add(1)
	md, _ := metadata.FromIncomingContext(stream.Context())
	for {
		var m frame
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch string(m) {
		case "no":
			return status.Error(codes.NotFound, "no such thing")
		case "for ever":
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		m = frame(string(m) + " in " + md.Get("containerd-namespace")[0])
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
}

// call makes a unary call in a namespace.
func (s *stage) call(t *testing.T, method, namespace, message string) (string, error) {
	request, reply := frame(message), frame(nil)
	err := s.client.Invoke(inNamespace(t.Context(), namespace), method, &request, &reply)
	return string(reply), err
}

func inNamespace(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

func TestBytesNamespacesAndErrorsPass(t *testing.T) {
	s := newStage(t)
	if got, err := s.call(t, get, "moby", "ask"); err != nil || got != "ask in moby" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.call(t, get, "moby", "no"); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestWritesAreCountedAndReadsAreNot(t *testing.T) {
	s := newStage(t)
	for _, method := range []string{create, get, create} {
		_, err := s.call(t, method, "moby", "x")
		check(t, err)
	}
	want := []Call{
		{Method: "Tasks.Create", Namespace: "moby", Request: []byte("x"), Write: 1, Done: true},
		{Method: "Tasks.Create", Namespace: "moby", Request: []byte("x"), Write: 2, Done: true},
	}
	if diff := cmp.Diff(want, s.Writes()); diff != "" {
		t.Error(diff)
	}
	s.Reset()
	if n := len(s.Writes()); n != 0 {
		t.Errorf("%d writes after a reset", n)
	}
}

func TestTheSecondWriteFailsBeforeOrAfterItIsCarriedOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   Fault
		carried int32
	}{
		{"before", Fault{Before: Lose}, 1},
		{"after", Fault{After: Lose}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.Hook(func(call Call) Fault {
				if call.Write == 2 {
					return c.fault
				}
				return Fault{}
			})
			_, err := s.call(t, create, "moby", "first")
			check(t, err)
			if _, err := s.call(t, create, "moby", "second"); status.Code(err) != codes.Unavailable {
				t.Errorf("the second write: %v", err)
			}
			if s.carried.Load() != c.carried {
				t.Errorf("%d writes were carried out, not %d", s.carried.Load(), c.carried)
			}
		})
	}
}

func TestAStreamPassesInBothDirectionsWhileItIsOpen(t *testing.T) {
	s := newStage(t)
	ended := false
	s.Hook(func(Call) Fault { return Fault{After: func() error { ended = true; return nil }} })
	stream, err := s.client.NewStream(inNamespace(t.Context(), "moby"),
		&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, streaming)
	check(t, err)
	for _, word := range []string{"one", "two", "three"} {
		request, reply := frame(word), frame(nil)
		check(t, stream.SendMsg(&request))
		check(t, stream.RecvMsg(&reply))
		if string(reply) != word+" in moby" {
			t.Errorf("got %q for %q", reply, word)
		}
	}
	check(t, stream.CloseSend())
	if err := stream.RecvMsg(new(frame)); !errors.Is(err, io.EOF) || !ended {
		t.Errorf("the end: %v, hook called: %v", err, ended)
	}
	if got := len(s.Writes()); got != 1 {
		t.Errorf("the stream counts as %d writes", got)
	}
}

func TestEachMessageThatIsAnsweredIsAWriteAndCanBeLost(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault Fault
	}{{"before", Fault{Before: Lose}}, {"after", Fault{After: Lose}}} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.Hook(func(call Call) Fault {
				if call.Write == 2 {
					return c.fault
				}
				return Fault{}
			})
			stream, err := s.client.NewStream(inNamespace(t.Context(), "moby"),
				&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, write)
			check(t, err)
			for n, word := range []string{"one", "two"} {
				request, reply := frame(word), frame(nil)
				check(t, stream.SendMsg(&request))
				if err := stream.RecvMsg(&reply); n == 0 && err != nil || n == 1 && status.Code(err) != codes.Unavailable {
					t.Errorf("%s: %q, %v", word, reply, err)
				}
			}
			want := []Call{
				{Method: "Content.Write", Namespace: "moby", Request: []byte("one"), Write: 1, Done: true},
				{Method: "Content.Write", Namespace: "moby", Request: []byte("two"), Write: 2, Done: c.fault.After != nil},
			}
			if diff := cmp.Diff(want, s.Writes()); diff != "" || len(s.Pending()) > 0 {
				t.Errorf("pending: %q\n%s", s.Pending(), diff)
			}
		})
	}
}

func TestADialogueEndsWhenItsClientHasSaidAll(t *testing.T) {
	s := newStage(t)
	stream, err := s.client.NewStream(inNamespace(t.Context(), "moby"),
		&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, write)
	check(t, err)
	request, reply := frame("one"), frame(nil)
	check(t, stream.SendMsg(&request))
	check(t, stream.RecvMsg(&reply))
	check(t, stream.CloseSend())
	if err := stream.RecvMsg(new(frame)); string(reply) != "one in moby" || !errors.Is(err, io.EOF) {
		t.Errorf("answered %q, ended with %v", reply, err)
	}
}

func TestWhenTheClientGoesTheServersStreamEnds(t *testing.T) {
	s := newStage(t)
	ctx, cancel := context.WithCancel(inNamespace(t.Context(), "moby"))
	stream, err := s.client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, subscribe)
	check(t, err)
	request := frame("for ever")
	check(t, stream.SendMsg(&request))
	check(t, stream.CloseSend())
	cancel()
	if err := stream.RecvMsg(new(frame)); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	} // and newStage's goleak proves that nobody waits for the rest
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
