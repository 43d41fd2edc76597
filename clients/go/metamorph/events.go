package metamorph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// The server ends a stream as soon as it has sent TurnFinished.
const endTimeout = time.Second

// response is what a stream of events sends.
type response interface {
	GetEvent() *chatv1.TurnEvent
	GetRevision() int64
}

// receiver receives the responses of one stream.
type receiver func() (response, error)

// turnEvents are the events of a turn after a sequence, each once and in order, over as many streams as it takes.
type turnEvents struct {
	ctx      context.Context
	chat     chatv1.ChatServiceClient
	patience *patience
	// Opens the stream that starts the turn, or nil if it is followed.
	start    func(ctx context.Context) (receiver, error)
	turnID   string
	sequence int32
	// Of the vault, the latest that came with an event, or zero.
	revision int64
	finished *chatv1.TurnFinished
	// An event that is there already, and whether no further one will be received.
	first *chatv1.TurnEvent
	over  bool

	// The current stream, if there is one, its context, and whether it has had an event.
	receive receiver
	attempt context.Context
	cancel  context.CancelFunc
	begun   bool

	// What another goroutine than the reader needs to end the stream: cancel, written by the reader alone, and what ends
	// the reading. Without a reading, it has receive too.
	lock sync.Mutex
	stop context.CancelCauseFunc
}

// errReplyClosed ends a reading whose reply was closed beside it.
var errReplyClosed = errors.New("the reply was closed")

// reading begins a reading, which goes on as long as the context that it returns.
func (events *turnEvents) reading(ctx context.Context) (reading context.Context, end func()) {
	events.lock.Lock()
	defer events.lock.Unlock()
	reading, stop := context.WithCancelCause(ctx)
	events.stop = stop
	return reading, func() {
		events.lock.Lock()
		defer events.lock.Unlock()
		events.stop = nil
		stop(nil)
	}
}

// leave ends the stream and the reading, if there is one. Any goroutine may call it.
func (events *turnEvents) leave() {
	events.lock.Lock()
	defer events.lock.Unlock()
	if events.stop != nil {
		events.stop(errReplyClosed)
	} else {
		events.receive = nil
	}
	if events.cancel != nil {
		events.cancel()
	}
}

// all yields the remaining events. Leaving the loop ends the stream, and another loop goes on after it.
func (events *turnEvents) all() iter.Seq2[*chatv1.TurnEvent, error] {
	return func(yield func(*chatv1.TurnEvent, error) bool) {
		ctx, end := events.reading(context.Background())
		defer end()
		defer events.close()
		for {
			event, err := events.next(ctx)
			if err == io.EOF || err != nil && context.Cause(ctx) == errReplyClosed {
				return
			}
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// accepted returns once the server has accepted to stream, or why it never does.
func (events *turnEvents) accepted() error {
	for {
		err := events.open(context.Background())
		if err == nil {
			events.patience.progress()
			return nil
		}
		if err := events.again(context.Background(), err); err != nil {
			return err
		}
	}
}

// next returns the next event, or io.EOF after the last one.
func (events *turnEvents) next(ctx context.Context) (*chatv1.TurnEvent, error) {
	if first := events.first; first != nil {
		events.first = nil
		return first, nil
	}
	for !events.over {
		if ctx.Err() != nil {
			events.close()
			return nil, contextError(ctx)
		}
		event, err := events.attemptNext(ctx)
		if err == nil {
			return event, nil
		}
		if err == io.EOF {
			break
		}
		if err := events.again(ctx, err); err != nil {
			return nil, err
		}
	}
	events.over = true
	events.close()
	return nil, io.EOF
}

// again waits before another attempt after an error, or returns why there is none.
func (events *turnEvents) again(ctx context.Context, err error) error {
	events.close()
	if events.ctx.Err() != nil {
		return contextError(events.ctx)
	}
	// Both contexts can end the wait.
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(events.ctx, stop)()
	err = events.patience.wait(waiting, err)
	if errors.Is(err, context.Canceled) && events.ctx.Err() != nil {
		// Which may be its deadline.
		return contextError(events.ctx)
	}
	return err
}

// attemptNext returns the next event of the current stream, which it opens if there is none. It returns io.EOF if the
// turn has ended and has no further event.
func (events *turnEvents) attemptNext(ctx context.Context) (*chatv1.TurnEvent, error) {
	if events.receive == nil {
		if err := events.open(ctx); err != nil {
			return nil, err
		}
	}
	defer context.AfterFunc(ctx, events.cancel)()
	for {
		response, err := events.receive()
		if err == io.EOF {
			return nil, events.ended()
		}
		if err != nil {
			return nil, err
		}
		event := response.GetEvent()
		events.revision = max(events.revision, response.GetRevision())
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

// open opens a stream. One that follows a turn is accepted then.
func (events *turnEvents) open(ctx context.Context) (err error) {
	attempt, cancel := context.WithCancel(events.ctx)
	events.lock.Lock()
	events.attempt, events.cancel = attempt, cancel
	events.lock.Unlock()
	defer context.AfterFunc(ctx, events.cancel)()
	events.begun = false
	if events.start != nil && events.turnID == "" {
		// The same request ID replays the turn from its first event.
		events.receive, err = events.start(events.attempt)
		return err
	}
	request := &chatv1.StreamTurnRequest{TurnId: events.turnID, AfterSequence: events.sequence}
	stream, err := events.chat.StreamTurn(events.attempt, request)
	if err != nil {
		return err
	}
	receive := receiving(stream.Recv)
	// The server names the call as soon as it accepts it. Otherwise its first event, or its end, shows what it does.
	if header, _ := stream.Header(); len(header.Get(callIDKey)) == 0 {
		first, err := receive()
		if err != nil && err != io.EOF {
			return err
		}
		receive = beginning(first, receive)
	}
	events.receive = receive
	return nil
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
		events.finished, events.over = finished, true
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
			events.sequence = turn.GetLastSequence()
			return io.EOF
		}
	}
	return incomplete(fmt.Sprintf("the stream ended after event %d, before TurnFinished", events.sequence))
}

// repeatLast makes the last event the next one.
func (events *turnEvents) repeatLast() {
	events.over, events.sequence = false, events.sequence-1
}

// close ends the current stream, if there is one.
func (events *turnEvents) close() {
	if events.cancel != nil {
		events.cancel()
	}
	events.receive = nil
}

// beginning receives a response that has been received already, if there is one, before the others.
func beginning(first response, others receiver) receiver {
	return func() (response, error) {
		if received := first; received != nil {
			first = nil
			return received, nil
		}
		return others()
	}
}

func receiving[Response response](receive func() (Response, error)) receiver {
	return func() (response, error) {
		received, err := receive()
		if err != nil {
			return nil, err
		}
		return received, nil
	}
}
