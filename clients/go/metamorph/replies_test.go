package metamorph_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"testing"
	"time"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

func TestAFollowedTurnEndsOnceItHasNoFurtherEvent(t *testing.T) {
	const ended, running = chatv1.TurnStatus_TURN_STATUS_COMPLETED, chatv1.TurnStatus_TURN_STATUS_RUNNING
	for name, each := range map[string]struct {
		after   int32
		scripts [][]int32
		turn    chatv1.TurnStatus
		seen    []int32
		calls   []string
	}{
		"the others have expired": {1, [][]int32{{5}}, ended, []int32{5}, []string{"StreamTurn"}},
		"it ends too early": {
			3, [][]int32{{4}, {5}}, running, []int32{4, 5}, []string{"StreamTurn", "GetTurn", "StreamTurn"},
		},
		"it ends at once": {
			3, [][]int32{{}, {4, 5}}, ended, []int32{4, 5}, []string{"StreamTurn", "GetTurn", "StreamTurn"},
		},
		"after the last event": {5, [][]int32{{}}, ended, nil, []string{"StreamTurn", "GetTurn"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, each.scripts...)
			server.turn = each.turn
			seen := sequences(t, follow(t, dial(t, server.target), each.after).Events())
			if !slices.Equal(seen, each.seen) || !slices.Equal(server.made(), each.calls) {
				t.Fatal(seen, server.made())
			}
		})
	}
}

func TestATurnThatIsFollowedFromItsLastEventHasAnEndAllTheSame(t *testing.T) {
	server := serve(t, []int32{}, []int32{5})
	server.turn = chatv1.TurnStatus_TURN_STATUS_COMPLETED
	reply := follow(t, dial(t, server.target), 7)
	if seen := sequences(t, reply.Events()); seen != nil {
		t.Fatal(seen)
	}
	for range 2 {
		if finished, err := reply.Final(t.Context()); finished == nil || err != nil {
			t.Fatal(err)
		}
	}
	if seen := sequences(t, reply.Events()); seen != nil {
		t.Fatal(seen)
	}
	if calls := server.made(); !slices.Equal(calls, []string{"StreamTurn", "GetTurn", "StreamTurn"}) {
		t.Fatal(calls)
	}
}

func TestATurnIsFollowedOnceTheServerHasAcceptedIt(t *testing.T) {
	silent, accepting := serve(t, []int32{}), serve(t, []int32{})
	silent.hangs, accepting.hangs, accepting.accepts = true, true, true
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dial(t, silent.target).Follow(soon, "turn_1", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if reply := follow(t, dial(t, accepting.target), 0); reply.TurnID != "turn_1" {
		t.Fatal(reply.TurnID)
	}
}

func TestAReplyHasTheLatestRevisionThatHasArrived(t *testing.T) {
	reply := follow(t, dial(t, serve(t, []int32{1, 2, 3}, []int32{4, 5}).target), 0)
	var revisions []int64
	for _, err := range reply.Events() {
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, reply.Revision())
	}
	if !slices.Equal(revisions, []int64{101, 101, 101, 101, 105}) {
		t.Fatal(revisions)
	}
	if from := follow(t, dial(t, serve(t, []int32{2, 3}).target), 1); from.Revision() != 0 {
		t.Fatal(from.Revision())
	}
}

func TestANilFunctionIsNotCalledBeforeARetry(t *testing.T) {
	server := serve(t, []int32{1, 2}, []int32{3, 4, 5})
	client := dial(t, server.target, metamorph.WithOnRetry(nil))
	seen := sequences(t, client.Send(t.Context(), "ses_1", metamorph.Text("Hello")))
	if !slices.Equal(seen, []int32{1, 2, 3, 4, 5}) {
		t.Fatal(seen)
	}
}

func TestALoopThatIsLeftIsContinuedByTheNextOne(t *testing.T) {
	server := serve(t, []int32{1, 2, 3, 4, 5}, []int32{3, 4, 5})
	reply, err := dial(t, server.target).Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	var seen []int32
	for event := range reply.Events() {
		seen = append(seen, event.Sequence)
		if len(seen) == 2 {
			break
		}
	}
	seen = append(seen, sequences(t, reply.Events())...)
	if !slices.Equal(seen, []int32{1, 2, 3, 4, 5}) {
		t.Fatal(seen)
	}
	if finished, err := reply.Final(t.Context()); finished == nil || err != nil {
		t.Fatal(err)
	}
	if calls := server.made(); !slices.Equal(calls, []string{"SendMessage", "StreamTurn"}) {
		t.Fatal(calls)
	}
}

func TestAReplyEndsWithItsContext(t *testing.T) {
	server := serve(t, []int32{1, 2})
	server.hangs = true
	ctx, cancel := context.WithCancel(t.Context())
	reply, err := dial(t, server.target).Start(ctx, "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	for _, err = range reply.Events() {
	}
	var failed *metamorph.Error
	if !errors.Is(err, context.Canceled) || !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if calls := server.made(); !slices.Equal(calls, []string{"SendMessage"}) {
		t.Fatal(calls)
	}
}

func TestADeadlineIsReportedAsOneWhileTheNextAttemptIsWaitedFor(t *testing.T) {
	server := serve(t, []int32{})
	server.reason = "RATE_LIMITED"
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := dial(t, server.target).Start(soon, "ses_1", metamorph.Text("Hello"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestTheWaitForTheEndOfAReplyHasAContextOfItsOwn(t *testing.T) {
	server := serve(t, []int32{1, 2}, []int32{2, 3, 4, 5})
	server.hangs = true
	reply, err := dial(t, server.target).Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := reply.Final(soon); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Fatal(err, time.Since(began))
	}
	if finished, err := reply.Final(t.Context()); finished == nil || err != nil {
		t.Fatal(err)
	}
}

func TestNoGoroutineIsLeftOfRepliesThatWereLeft(t *testing.T) {
	server := serve(t, []int32{1, 2})
	server.hangs = true
	client := dial(t, server.target)
	// Connects.
	client.Chat.GetSession(t.Context(), &chatv1.GetSessionRequest{})
	before := runtime.NumGoroutine()
	for range 10 {
		reply, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
		if err != nil {
			t.Fatal(err)
		}
		reply.Close()
		for range client.Send(t.Context(), "ses_1", metamorph.Text("Hello")) {
			break
		}
		for range follow(t, client, 0).Events() {
			break
		}
	}
	goroutinesEnd(t, before)
}

func TestNoGoroutineIsLeftOfAClient(t *testing.T) {
	server := serve(t, []int32{1, 2, 3, 4, 5})
	before := runtime.NumGoroutine()
	for range 5 {
		client, err := metamorph.Dial(server.target)
		if err != nil {
			t.Fatal(err)
		}
		sequences(t, client.Send(t.Context(), "ses_1", metamorph.Text("Hello")))
		client.Close()
	}
	goroutinesEnd(t, before)
}

func follow(t *testing.T, client *metamorph.Client, after int32) *metamorph.Reply {
	t.Helper()
	reply, err := client.Follow(t.Context(), "turn_1", after)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func sequences(t *testing.T, events iter.Seq2[*chatv1.TurnEvent, error]) []int32 {
	t.Helper()
	var seen []int32
	for event, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, event.Sequence)
	}
	return seen
}
