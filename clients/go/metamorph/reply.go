package metamorph

import (
	"context"
	"io"
	"iter"

	"google.golang.org/grpc/codes"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// Reply is the reply of a turn that has started, or the rest of one that is followed. One goroutine may use it at a
// time, except for Cancel and Close, which any may call.
//
// Its events arrive each once, and in order: what one method has returned, or a loop has had, no other one gets. Use it
// up to its end, or call Close, or cancel the context that it was started with: until then its stream is open.
type Reply struct {
	// TurnID is the ID of the turn, with which another process can follow it.
	TurnID string

	client *Client
	events *turnEvents
}

// begin returns a reply once its turn is stored, which its first event says.
func (client *Client) begin(events *turnEvents) (*Reply, error) {
	first, err := events.next(context.Background())
	if err != nil {
		events.close()
		return nil, err
	}
	events.first = first
	return &Reply{TurnID: first.GetTurnId(), client: client, events: events}, nil
}

// Events yields the events, to the end of the turn. After an error, there is none. Leaving the loop ends the stream
// only: the turn goes on, and another loop goes on after the last event.
func (reply *Reply) Events() iter.Seq2[*chatv1.TurnEvent, error] {
	return reply.events.all()
}

// Text yields the text as it arrives, and otherwise what Events does.
func (reply *Reply) Text() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for event, err := range reply.Events() {
			if text := event.GetTextDelta().GetText(); (err != nil || text != "") && !yield(text, err) {
				return
			}
		}
	}
}

// Final returns how the turn has ended, with the stored message, once it has. It may be called more than once, and
// after a loop. A turn that has failed is no error: its status says so.
//
// The context ends the wait. That of Start does too, and Close.
func (reply *Reply) Final(ctx context.Context) (*chatv1.TurnFinished, error) {
	ctx, end := reply.events.reading(ctx)
	defer end()
	reply.events.first = nil
	for reply.events.finished == nil {
		_, err := reply.events.next(ctx)
		if err == io.EOF && reply.events.finished == nil {
			// It was followed from there.
			reply.events.repeatLast()
		} else if err != nil && context.Cause(ctx) == errReplyClosed {
			return nil, &Error{Code: codes.Canceled, Message: errReplyClosed.Error(), lasts: true}
		} else if err != nil {
			return nil, err
		}
	}
	return reply.events.finished, nil
}

// Revision returns the vault's revision, or a later one, once the last event with one was stored, or 0 if none has
// arrived. It is the AtLeastRevision of requests that are to see it.
func (reply *Reply) Revision() int64 {
	return reply.events.revision
}

// Cancel stops the turn, and returns it. What was generated so far is kept, and the events still come to an end.
func (reply *Reply) Cancel(ctx context.Context) (*chatv1.Turn, error) {
	return reply.client.Cancel(ctx, reply.TurnID)
}

// Close ends the stream, and with it a loop that goes on in another goroutine, as if that had left it. The turn goes
// on, and another loop goes on after the last event.
func (reply *Reply) Close() {
	reply.events.leave()
}
