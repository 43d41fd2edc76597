package metamorph_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"metamorph.internal/go/metamorph"
)

// waiting returns a reply whose stream brings two events, and then nothing more.
func waiting(t *testing.T) (*server, *metamorph.Reply, *retries) {
	t.Helper()
	server, retried := serve(t, []int32{1, 2}), &retries{}
	server.hangs = true
	client := dial(t, server.target, metamorph.WithOnRetry(retried.add))
	reply, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	return server, reply, retried
}

// goesOn has another stream end the turn, and fails the test unless the reply has the rest, without another attempt.
func goesOn(t *testing.T, server *server, reply *metamorph.Reply, retried *retries) {
	t.Helper()
	server.answers([]int32{3, 4, 5})
	if seen := sequences(t, reply.Events()); !slices.Equal(seen, []int32{3, 4, 5}) {
		t.Fatal(seen)
	}
	if calls := server.made(); !slices.Equal(calls, []string{"SendMessage", "StreamTurn"}) || len(retried.all()) > 0 {
		t.Fatal(calls, retried.all())
	}
}

func TestAReplyThatIsClosedBesideItsLoopEndsItAsIfItHadBeenLeft(t *testing.T) {
	for range 20 {
		server, reply, retried := waiting(t)
		second, over := make(chan bool), make(chan error)
		go func() {
			for event, err := range reply.Events() {
				if err != nil {
					over <- err
				} else if event.Sequence == 2 {
					close(second)
				}
			}
			close(over)
		}()
		<-second
		reply.Close()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		goesOn(t, server, reply, retried)
	}
}

func TestAReplyThatIsClosedInItsLoopEndsIt(t *testing.T) {
	server, reply, retried := waiting(t)
	var seen []int32
	for event, err := range reply.Events() {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, event.Sequence)
		if event.Sequence == 2 {
			reply.Close()
		}
	}
	if !slices.Equal(seen, []int32{1, 2}) {
		t.Fatal(seen)
	}
	goesOn(t, server, reply, retried)
}

func TestAReplyThatIsClosedWhileItsEndIsAwaitedSaysSo(t *testing.T) {
	server, reply, retried := waiting(t)
	time.AfterFunc(50*time.Millisecond, reply.Close)
	_, err := reply.Final(t.Context())
	var failed *metamorph.Error
	if !errors.As(err, &failed) || failed.Code != codes.Canceled || failed.Resumable() ||
		failed.Message != "the reply was closed" {
		t.Fatal(err)
	}
	goesOn(t, server, reply, retried)
}

func TestAReplyMayBeClosedByManyAtOnce(t *testing.T) {
	_, reply, retried := waiting(t)
	for range 10 {
		go reply.Close()
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := reply.Final(soon); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if found := retried.all(); len(found) > 0 {
		t.Fatal(found)
	}
}
