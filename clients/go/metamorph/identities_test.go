package metamorph_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

func TestEachIdentityHasItsToken(t *testing.T) {
	server := serve(t, []int32{1, 2}, []int32{3, 4, 5})
	first := dial(t, server.target, metamorph.WithToken("ada"), metamorph.WithVault("hers"))
	bob := first.WithToken("bob")
	asked := bob.WithTokenSource(func(context.Context) (string, error) { return "cleo", nil })
	sequences(t, bob.Send(t.Context(), "ses_1", metamorph.Text("Hello")))
	for _, client := range []*metamorph.Client{asked, bob.WithToken(""), first} {
		client.Chat.GetTurn(t.Context(), &chatv1.GetTurnRequest{})
	}
	if tokens := server.tokens; !slices.Equal(tokens, []string{"Bearer bob", "Bearer bob", "Bearer cleo", "", "Bearer ada"}) {
		t.Fatal(tokens)
	}
	if vaults := server.vaults; !slices.Equal(vaults, []string{"", "", "", "", "hers"}) {
		t.Fatal(vaults)
	}
}

func TestAnIdentityWhoseTokenCannotBeSentCallsNothing(t *testing.T) {
	server := serve(t)
	for _, token := range []string{"line\nfeed", "two words", "Zoë"} {
		_, err := dial(t, server.target).WithToken(token).Start(t.Context(), "ses_1", metamorph.Text("Hello"))
		if calls := server.made(); !namesToken(err) || len(calls) > 0 {
			t.Fatal(err, calls)
		}
	}
}

func TestAThousandIdentitiesHaveNoGoroutine(t *testing.T) {
	client := dial(t, serve(t).target)
	before := runtime.NumGoroutine()
	for range 1000 {
		client.WithToken("bob")
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Fatal(now, before)
	}
}

func TestAnIdentityEndsWithItsClientAndNotTheOtherWayRound(t *testing.T) {
	client := dial(t, serve(t).target)
	bob := client.WithToken("bob")
	bob.Close()
	for _, each := range []*metamorph.Client{client, bob} {
		if _, err := each.Chat.GetTurn(t.Context(), &chatv1.GetTurnRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for _, each := range []*metamorph.Client{client, bob} {
		_, err := each.Chat.GetTurn(t.Context(), &chatv1.GetTurnRequest{})
		saysItIsClosed(t, err)
		_, err = each.Chat.StreamTurn(t.Context(), &chatv1.StreamTurnRequest{})
		saysItIsClosed(t, err)
	}
}

func TestAClosedClientAsksForNoToken(t *testing.T) {
	asked := 0
	client := dial(t, serve(t).target, metamorph.WithTokenSource(func(context.Context) (string, error) {
		asked++
		return "ada", nil
	}))
	client.Close()
	_, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if saysItIsClosed(t, err); asked > 0 {
		t.Fatal(asked)
	}
}

func TestWhatIsGoingOnEndsWhenItsClientIsClosed(t *testing.T) {
	server := serve(t, []int32{1, 2})
	server.hangs = true
	client := dial(t, server.target)
	reply, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { client.Close() })
	for _, err = range reply.Events() {
	}
	saysItIsClosed(t, err)
	if calls := server.made(); !slices.Equal(calls, []string{"SendMessage"}) {
		t.Fatal(calls)
	}
}

func TestAWaitForTheNextAttemptEndsWhenTheClientIsClosed(t *testing.T) {
	server := serve(t, []int32{})
	server.reason = "RATE_LIMITED"
	var client *metamorph.Client
	closing := metamorph.WithOnRetry(func(*metamorph.Error) { time.AfterFunc(time.Millisecond, func() { client.Close() }) })
	client = dial(t, server.target, closing)
	began := time.Now()
	_, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	saysItIsClosed(t, err)
	if took := time.Since(began); took > 5*time.Second {
		t.Fatal(took)
	}
}

func TestARefusalThatSaysHowLongToWaitMaySucceedLater(t *testing.T) {
	server := serve(t, []int32{})
	server.reason = "TOO_MANY_TURNS"
	client := dial(t, server.target, metamorph.WithGiveUpAfter(time.Second))
	_, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	var failed *metamorph.Error
	if !errors.As(err, &failed) || !failed.Resumable() {
		t.Fatal(err)
	}
}

func TestATokenThatIsTextIsNotSentAgain(t *testing.T) {
	for _, reason := range []string{"TOKEN_EXPIRED", "TOKEN_REVOKED"} {
		server := serve(t, []int32{})
		server.reason = reason
		client := dial(t, server.target, metamorph.WithToken("old"), metamorph.WithGiveUpAfter(time.Second))
		asked := client.WithTokenSource(func(context.Context) (string, error) { return "old", nil })
		for caller, renews := range map[*metamorph.Client]bool{client: false, client.WithToken("bob"): false, asked: true} {
			before := len(server.made())
			_, err := caller.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
			var failed *metamorph.Error
			if !errors.As(err, &failed) || failed.Reason != reason || failed.Resumable() != renews {
				t.Fatal(err)
			}
			if calls := len(server.made()) - before; (calls > 1) != renews {
				t.Fatal(calls)
			}
		}
	}
}

func saysItIsClosed(t *testing.T, err error) {
	t.Helper()
	var failed *metamorph.Error
	if !errors.As(err, &failed) || failed.Code != codes.Canceled || failed.Reason != "" || failed.Resumable() ||
		failed.Message != "the client is closed" {
		t.Fatal(err)
	}
}
