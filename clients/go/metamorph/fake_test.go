package metamorph_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// server answers each stream with the next script, the last one again and again: the sequences of its events, of which 5
// is TurnFinished. Before them it accepts the call if it is to, and after them it waits if it is
// to hang, and fails with a reason if it is to.
type server struct {
	chatv1.UnimplementedChatServiceServer
	target   string
	turn     chatv1.TurnStatus
	finished *chatv1.TurnFinished
	reason   string
	accepts  bool
	hangs    bool

	lock    sync.Mutex
	scripts [][]int32
	calls   []string
	tokens  []string
	vaults  []string
	content []*chatv1.ContentBlock
}

// serve starts a server, which ends with the test.
func serve(t *testing.T, scripts ...[]int32) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const running = chatv1.TurnStatus_TURN_STATUS_RUNNING
	target, finished := listener.Addr().String(), &chatv1.TurnFinished{}
	found := &server{target: target, turn: running, finished: finished, scripts: scripts}
	serving := grpc.NewServer(grpc.MaxHeaderListSize(16 << 10))
	chatv1.RegisterChatServiceServer(serving, found)
	go serving.Serve(listener)
	t.Cleanup(serving.Stop)
	return found
}

func dial(t *testing.T, target string, options ...metamorph.Option) *metamorph.Client {
	t.Helper()
	client, err := metamorph.Dial(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (server *server) GetTurn(
	ctx context.Context, request *chatv1.GetTurnRequest,
) (*chatv1.GetTurnResponse, error) {
	server.called(ctx, "GetTurn")
	return &chatv1.GetTurnResponse{Turn: &chatv1.Turn{Status: server.turn, LastSequence: 5}}, nil
}

func (server *server) GetSession(
	ctx context.Context, request *chatv1.GetSessionRequest,
) (*chatv1.GetSessionResponse, error) {
	server.called(ctx, "GetSession")
	return nil, status.Error(codes.NotFound, "no session")
}

func (server *server) SendMessage(
	request *chatv1.SendMessageRequest, stream grpc.ServerStreamingServer[chatv1.SendMessageResponse],
) error {
	server.called(stream.Context(), "SendMessage")
	server.lock.Lock()
	server.content = request.Content
	server.lock.Unlock()
	return server.play(stream.Context(), func(event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.SendMessageResponse{Event: event, Revision: revisionOf(event)})
	})
}

func (server *server) UploadAttachment(
	stream grpc.ClientStreamingServer[chatv1.UploadAttachmentRequest, chatv1.UploadAttachmentResponse],
) error {
	var size int32
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&chatv1.UploadAttachmentResponse{Attachment: &chatv1.Attachment{SizeBytes: size}})
		}
		if err != nil {
			return err
		}
		size += int32(len(request.GetChunk()))
	}
}

func (server *server) StreamTurn(
	request *chatv1.StreamTurnRequest, stream grpc.ServerStreamingServer[chatv1.StreamTurnResponse],
) error {
	server.called(stream.Context(), "StreamTurn")
	if server.accepts {
		stream.SendHeader(metadata.Pairs("x-request-id", "call_1"))
	}
	return server.play(stream.Context(), func(event *chatv1.TurnEvent) error {
		return stream.Send(&chatv1.StreamTurnResponse{Event: event, Revision: revisionOf(event)})
	})
}

// revisionOf returns the revision that comes with the first event of a turn, and with its last one.
func revisionOf(event *chatv1.TurnEvent) int64 {
	switch sequence := event.Sequence; sequence {
	case 1, 5:
		return int64(sequence) + 100
	}
	return 0
}

func (server *server) called(ctx context.Context, name string) {
	server.lock.Lock()
	defer server.lock.Unlock()
	given, _ := metadata.FromIncomingContext(ctx)
	server.calls = append(server.calls, name)
	server.tokens = append(server.tokens, strings.Join(given.Get("authorization"), ","))
	server.vaults = append(server.vaults, strings.Join(given.Get("x-vault-id"), ","))
}

func (server *server) made() []string {
	server.lock.Lock()
	defer server.lock.Unlock()
	return slices.Clone(server.calls)
}

func (server *server) play(ctx context.Context, send func(*chatv1.TurnEvent) error) error {
	server.lock.Lock()
	script, hangs := server.scripts[0], server.hangs
	if len(server.scripts) > 1 {
		server.scripts = server.scripts[1:]
	}
	server.lock.Unlock()
	for _, sequence := range script {
		event := &chatv1.TurnEvent{TurnId: "turn_1", Sequence: sequence}
		if sequence == 5 {
			event.Event = &chatv1.TurnEvent_TurnFinished{TurnFinished: server.finished}
		}
		if err := send(event); err != nil {
			return err
		}
	}
	if hangs {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	if server.reason != "" {
		return refusal(server.reason)
	}
	return nil
}

// refusal returns an error whose reason says that another attempt may succeed, a minute later if it is a limit.
func refusal(reason string) error {
	code, details := codes.Unauthenticated, []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason}}
	if !strings.HasPrefix(reason, "TOKEN_") {
		code = codes.ResourceExhausted
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)})
	}
	found, _ := status.New(code, "refused").WithDetails(details...)
	return found.Err()
}

// goroutinesEnd fails the test unless there are as few goroutines as before within five seconds.
func goroutinesEnd(t *testing.T, before int) {
	t.Helper()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}

// answers replaces the scripts of the streams to come, which do not hang any more.
func (server *server) answers(scripts ...[]int32) {
	server.lock.Lock()
	defer server.lock.Unlock()
	server.scripts, server.hangs = scripts, false
}

// retries are the errors that a client has reported before new attempts.
type retries struct {
	lock   sync.Mutex
	errors []*metamorph.Error
}

func (retries *retries) add(failed *metamorph.Error) {
	retries.lock.Lock()
	defer retries.lock.Unlock()
	retries.errors = append(retries.errors, failed)
}

func (retries *retries) all() []*metamorph.Error {
	retries.lock.Lock()
	defer retries.lock.Unlock()
	return slices.Clone(retries.errors)
}
