package metamorph

import (
	"context"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatv1 "metamorph/clients/go/metamorph/chat/v1"
)

// Attempts without a further event, with pauses of up to 100 ms that double.
const (
	attempts     = 5
	firstBackoff = 100 * time.Millisecond
)

// hasEvent is a response of a turn's stream.
type hasEvent interface {
	GetEvent() *chatv1.TurnEvent
}

// turnStream is a turn's stream that is resumed if it ends OK before TurnFinished or leaves out an event.
type turnStream struct {
	grpc.ClientStream
	// The call's own context: that of a stream is cancelled once it has ended.
	ctx        context.Context
	method     string
	open       func(method string) (grpc.ClientStream, error)
	connection *grpc.ClientConn

	request  any
	turn     string
	sequence int32
	failed   int
	// Whether an event of the current stream has been received.
	begun    bool
	finished bool
}

func resuming(
	ctx context.Context, description *grpc.StreamDesc,
	connection *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, connection, method, options...)
	switch method {
	case chatv1.ChatService_SendMessage_FullMethodName,
		chatv1.ChatService_RegenerateReply_FullMethodName,
		chatv1.ChatService_StreamTurn_FullMethodName:
	default:
		return stream, err
	}
	if err != nil {
		return nil, err
	}
	again := func(method string) (grpc.ClientStream, error) {
		return open(ctx, description, connection, method, options...)
	}
	return &turnStream{ClientStream: stream, ctx: ctx, method: method, open: again, connection: connection}, nil
}

// SendMsg sends the request, which says where the stream begins.
func (stream *turnStream) SendMsg(message any) error {
	stream.request = message
	if follow, ok := message.(*chatv1.StreamTurnRequest); ok {
		stream.turn, stream.sequence = follow.TurnId, follow.AfterSequence
	}
	return stream.ClientStream.SendMsg(message)
}

// RecvMsg receives the next event, each once and in order. It returns io.EOF only once the turn has ended.
func (stream *turnStream) RecvMsg(message any) error {
	for {
		err := stream.ClientStream.RecvMsg(message)
		if err == io.EOF && !stream.finished {
			if err = stream.resume(); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		event := message.(hasEvent).GetEvent()
		last, first := event.GetTurnFinished() != nil, !stream.begun
		stream.begun = true
		// After one that is left out, the others come again. The last one may be alone, because the others have expired.
		gap := event.GetSequence() > stream.sequence+1 && !(first && last)
		if gap || event.GetSequence() <= stream.sequence {
			continue
		}
		stream.turn, stream.sequence, stream.failed = event.GetTurnId(), event.GetSequence(), 0
		stream.finished = last
		return nil
	}
}

// resume continues after the last event. It returns io.EOF if there is nothing to continue.
func (stream *turnStream) resume() error {
	if stream.method == chatv1.ChatService_StreamTurn_FullMethodName {
		ended, err := stream.ended()
		if err != nil {
			return err
		}
		if ended {
			return io.EOF
		}
	}
	repeated, ok := stream.request.(interface{ GetRequestId() string })
	if stream.failed >= attempts || stream.turn == "" && (!ok || repeated.GetRequestId() == "") {
		return status.Errorf(codes.Internal, "the stream ended after event %d, before TurnFinished", stream.sequence)
	}
	select {
	case <-time.After(time.Duration(rand.Int64N(int64(firstBackoff << stream.failed)))):
	case <-stream.ctx.Done():
		return status.FromContextError(stream.ctx.Err()).Err()
	}
	stream.failed++
	method, request := stream.method, stream.request
	if stream.turn != "" {
		method = chatv1.ChatService_StreamTurn_FullMethodName
		request = &chatv1.StreamTurnRequest{TurnId: stream.turn, AfterSequence: stream.sequence}
	}
	next, err := stream.open(method)
	if err != nil {
		return err
	}
	stream.ClientStream, stream.begun = next, false
	// After io.EOF, RecvMsg returns the status.
	if err := next.SendMsg(request); err != nil && err != io.EOF {
		return err
	}
	return next.CloseSend()
}

// ended returns whether the turn has no event after the last one, and will have none: then StreamTurn ends OK without
// an event.
func (stream *turnStream) ended() (bool, error) {
	request, response := &chatv1.GetTurnRequest{TurnId: stream.turn}, &chatv1.GetTurnResponse{}
	method := chatv1.ChatService_GetTurn_FullMethodName
	if err := stream.connection.Invoke(stream.ctx, method, request, response); err != nil {
		return false, err
	}
	turn := response.GetTurn()
	return turn.GetStatus() != chatv1.TurnStatus_TURN_STATUS_RUNNING && turn.GetLastSequence() <= stream.sequence, nil
}
