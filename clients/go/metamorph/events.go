package metamorph

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// The server ends a stream as soon as it has sent TurnFinished.
const endTimeout = time.Second

// receiver receives the events of one stream.
type receiver func() (*chatv1.TurnEvent, error)

// turnEvents are the events of a turn after a sequence, each once and in order, over as many streams as it takes.
type turnEvents struct {
	ctx      context.Context
	chat     chatv1.ChatServiceClient
	patience *patience
	// Opens the stream that starts the turn, or nil if it is followed.
	start    func(ctx context.Context) (receiver, error)
	turnID   string
	sequence int32
	finished *chatv1.TurnFinished

	// The current stream, if there is one, its context, and whether it has had an event.
	receive receiver
	attempt context.Context
	cancel  context.CancelFunc
	begun   bool
}

// all yields the remaining events. Leaving the loop ends the stream, and another loop goes on after it.
func (events *turnEvents) all() iter.Seq2[*chatv1.TurnEvent, error] {
	return func(yield func(*chatv1.TurnEvent, error) bool) {
		defer events.close()
		for {
			event, err := events.next(context.Background())
			if err == io.EOF || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// next returns the next event, or io.EOF after the last one.
func (events *turnEvents) next(ctx context.Context) (*chatv1.TurnEvent, error) {
	for events.finished == nil {
		event, err := events.attemptNext(ctx)
		if event != nil || err == io.EOF {
			return event, err
		}
		events.close()
		if events.ctx.Err() != nil {
			return nil, contextError(events.ctx)
		}
		// Both contexts can end the wait.
		waiting, stop := context.WithCancel(ctx)
		unlink := context.AfterFunc(events.ctx, stop)
		err = events.patience.wait(waiting, err)
		unlink()
		stop()
		if err != nil {
			return nil, err
		}
	}
	return nil, io.EOF
}

// attemptNext returns the next event of the current stream, which it opens if there is none. It returns io.EOF if the
// turn has ended and has no further event.
func (events *turnEvents) attemptNext(ctx context.Context) (*chatv1.TurnEvent, error) {
	if events.receive == nil {
		events.attempt, events.cancel = context.WithCancel(events.ctx)
	}
	stop := context.AfterFunc(ctx, events.cancel)
	defer stop()
	if events.receive == nil {
		receive, err := events.open()
		if err != nil {
			return nil, err
		}
		events.receive, events.begun = receive, false
	}
	for {
		event, err := events.receive()
		if err == io.EOF {
			return nil, events.ended()
		}
		if err != nil {
			return nil, err
		}
		isNext, err := events.isNext(event)
		if err != nil {
			return nil, err
		}
		if isNext {
			events.accept(event)
			return event, nil
		}
	}
}

func (events *turnEvents) open() (receiver, error) {
	if events.start != nil && events.turnID == "" {
		// The same request ID replays the turn from its first event.
		return events.start(events.attempt)
	}
	request := &chatv1.StreamTurnRequest{TurnId: events.turnID, AfterSequence: events.sequence}
	stream, err := events.chat.StreamTurn(events.attempt, request)
	if err != nil {
		return nil, err
	}
	return receiving(stream.Recv), nil
}

// isNext returns whether an event continues the sequence, or false for a repeated one. It fails for a gap.
// TurnFinished may be the first of a stream whatever its sequence, because the others may have expired.
func (events *turnEvents) isNext(event *chatv1.TurnEvent) (bool, error) {
	alone := !events.begun && event.GetTurnFinished() != nil
	events.begun = true
	if event.GetSequence() > events.sequence+1 && !alone {
		return false, incomplete(fmt.Sprintf("event %d follows event %d", event.GetSequence(), events.sequence))
	}
	return event.GetSequence() > events.sequence, nil
}

func (events *turnEvents) accept(event *chatv1.TurnEvent) {
	events.turnID, events.sequence = event.GetTurnId(), event.GetSequence()
	events.patience.progress()
	if finished := event.GetTurnFinished(); finished != nil {
		events.finished = finished
		// So that the call is not one that was cancelled.
		timer := time.AfterFunc(endTimeout, events.cancel)
		events.receive()
		timer.Stop()
		events.close()
	}
}

// ended returns why a stream has ended OK before TurnFinished: io.EOF if it is one of a turn that has no event after
// the sequence, and will have none. StreamTurn ends OK without an event then, and no other stream does.
func (events *turnEvents) ended() error {
	if events.start == nil {
		response, err := events.chat.GetTurn(events.attempt, &chatv1.GetTurnRequest{TurnId: events.turnID})
		if err != nil {
			return err
		}
		turn := response.GetTurn()
		if turn.GetStatus() != chatv1.TurnStatus_TURN_STATUS_RUNNING && turn.GetLastSequence() <= events.sequence {
			return io.EOF
		}
	}
	return incomplete(fmt.Sprintf("the stream ended after event %d, before TurnFinished", events.sequence))
}

// close ends the current stream, if there is one.
func (events *turnEvents) close() {
	if events.cancel != nil {
		events.cancel()
	}
	events.receive = nil
}

func receiving[Response interface{ GetEvent() *chatv1.TurnEvent }](receive func() (Response, error)) receiver {
	return func() (*chatv1.TurnEvent, error) {
		response, err := receive()
		if err != nil {
			return nil, err
		}
		return response.GetEvent(), nil
	}
}
