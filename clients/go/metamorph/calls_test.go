package metamorph_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

func TestAnErrorIsFoundInEveryWay(t *testing.T) {
	client := dial(t, serve(t).target)
	_, err := client.Chat.GetSession(t.Context(), &chatv1.GetSessionRequest{})
	var failed *metamorph.Error
	if !errors.As(err, &failed) || failed.Code != codes.NotFound || failed.Resumable() {
		t.Fatal(err)
	}
	if found, ok := status.FromError(err); !ok || found.Code() != codes.NotFound || found.Message() != "no session" {
		t.Fatal(found)
	}
	if inner, ok := status.FromError(errors.Unwrap(err)); !ok || inner.Code() != codes.NotFound {
		t.Fatal(inner)
	}
	if err.Error() != "NOT_FOUND: no session" {
		t.Fatal(err)
	}
}

func TestTheErrorOfATokenSourceIsReturnedAndNothingIsSent(t *testing.T) {
	server, asleep := serve(t), errors.New("the issuer is asleep")
	client := dial(t, server.target, metamorph.WithTokenSource(func(context.Context) (string, error) {
		return "", asleep
	}))
	if _, err := client.Chat.GetSession(t.Context(), &chatv1.GetSessionRequest{}); !errors.Is(err, asleep) {
		t.Fatal(err)
	}
	if _, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello")); !errors.Is(err, asleep) {
		t.Fatal(err)
	}
	if calls := server.made(); len(calls) > 0 {
		t.Fatal(calls)
	}
}

func TestATokenSourceThatFailsWhileAReplyIsResumedIsAskedAgain(t *testing.T) {
	server, retried := serve(t, []int32{1, 2}, []int32{3, 4, 5}), &retries{}
	asleep, asked := errors.New("the issuer is asleep"), 0
	client := dial(t, server.target, metamorph.WithOnRetry(retried.add),
		metamorph.WithTokenSource(func(context.Context) (string, error) {
			asked++
			if asked == 2 || asked == 3 {
				return "", asleep
			}
			return "token", nil
		}))
	if seen := sequences(t, client.Send(t.Context(), "ses_1", metamorph.Text("Hello"))); len(seen) != 5 {
		t.Fatal(seen)
	}
	// That the stream has ended too early, and two times the source.
	found := retried.all()
	if len(found) != 3 || found[1].Code != codes.Unavailable || !strings.Contains(found[1].Message, asleep.Error()) {
		t.Fatal(found)
	}
}

func TestATokenSourceThatFailsOnIsReportedInTheEnd(t *testing.T) {
	server, asleep, asked := serve(t, []int32{1, 2}), errors.New("the issuer is asleep"), 0
	client := dial(t, server.target, metamorph.WithGiveUpAfter(200*time.Millisecond),
		metamorph.WithTokenSource(func(context.Context) (string, error) {
			if asked++; asked > 1 {
				return "", asleep
			}
			return "token", nil
		}))
	reply, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if err != nil {
		t.Fatal(err)
	}
	// It is resumed by what goes on after a loop that was left, too.
	for range reply.Events() {
		break
	}
	if _, err := reply.Final(t.Context()); !errors.Is(err, asleep) || asked < 3 {
		t.Fatal(err, asked)
	}
}

func TestATokenThatCannotBeSentIsRefusedAtOnce(t *testing.T) {
	if _, err := metamorph.Dial("localhost:50051", metamorph.WithToken("line\nfeed")); !namesToken(err) {
		t.Fatal(err)
	}
	server := serve(t)
	client := dial(t, server.target, metamorph.WithTokenSource(func(context.Context) (string, error) {
		return "line\nfeed", nil
	}))
	_, err := client.Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	if calls := server.made(); !namesToken(err) || len(calls) > 0 {
		t.Fatal(err, calls)
	}
}

func TestWhatCannotBeSentIsNotTriedAgain(t *testing.T) {
	server := serve(t)
	client := dial(t, server.target)
	_, text := client.Start(t.Context(), "ses_1", metamorph.Text("\xff"))
	_, header := client.WithToken(strings.Repeat("x", 1<<20)).Start(t.Context(), "ses_1", metamorph.Text("Hello"))
	for sign, err := range map[string]error{"UTF-8": text, "header": header} {
		var failed *metamorph.Error
		if !errors.As(err, &failed) || failed.Resumable() || !strings.Contains(failed.Message, sign) {
			t.Fatal(err)
		}
	}
	if calls := server.made(); len(calls) > 0 {
		t.Fatal(calls)
	}
}

func TestTheTextOfAnErrorHasThreeViolationsAtMost(t *testing.T) {
	failed := &metamorph.Error{Code: codes.InvalidArgument, Reason: "REQUEST_INVALID", Message: "fields are invalid"}
	for _, text := range []string{
		"REQUEST_INVALID: fields are invalid",
		"REQUEST_INVALID: fields are invalid (a: too long)",
		"REQUEST_INVALID: fields are invalid (a: too long; a: too long)",
		"REQUEST_INVALID: fields are invalid (a: too long; a: too long; a: too long)",
		"REQUEST_INVALID: fields are invalid (a: too long; a: too long; a: too long; and 1 more)",
	} {
		if failed.Error() != text {
			t.Fatal(failed)
		}
		failed.Violations = append(failed.Violations, metamorph.Violation{Field: "a", Description: "too long"})
	}
}

func TestPlaintextToAServerWithTLSSaysWhatToDo(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	client := dial(t, server.Listener.Addr().String())
	_, err := client.Chat.CreateSession(t.Context(), &chatv1.CreateSessionRequest{})
	var failed *metamorph.Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, "grpcs://") || !failed.Resumable() {
		t.Fatal(err)
	}
}

func TestASourceThatTakesTooLongIsADeadline(t *testing.T) {
	server := serve(t)
	client := dial(t, server.target, metamorph.WithTimeout(50*time.Millisecond),
		metamorph.WithTokenSource(func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}))
	_, err := client.Chat.GetSession(t.Context(), &chatv1.GetSessionRequest{})
	var failed *metamorph.Error
	if !errors.As(err, &failed) || failed.Code != codes.DeadlineExceeded {
		t.Fatal(err)
	}
}

func TestRegenerateRefusesAParent(t *testing.T) {
	client := dial(t, serve(t).target)
	if _, err := client.Regenerate(t.Context(), "msg_1", metamorph.WithParent("msg_0")); err == nil {
		t.Fatal("it is not refused")
	}
}

func namesToken(err error) bool {
	return err != nil && strings.Contains(err.Error(), "token")
}
