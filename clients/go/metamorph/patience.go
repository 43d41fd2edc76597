package metamorph

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	firstBackoff   = 100 * time.Millisecond
	longestBackoff = 5 * time.Second
)

// patience is how long a client goes on trying: until giveUpAfter has passed without progress.
type patience struct {
	giveUpAfter  time.Duration
	onRetry      func(*Error)
	closed       <-chan struct{}
	attempts     int
	failingSince time.Time
	// Whether there was an attempt that had a token: the next one resumes it.
	resumes bool
}

func (client *Client) patience() *patience {
	return &patience{giveUpAfter: client.giveUpAfter, onRetry: client.onRetry, closed: client.calls.closed}
}

// progress starts anew, because something has arrived.
func (patience *patience) progress() {
	patience.attempts, patience.failingSince, patience.resumes = 0, time.Time{}, true
}

// wait waits before the next attempt. It returns the error if no attempt can help, or the next one would come too
// late, and that of the context or of a closed client if either ends.
func (patience *patience) wait(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	failed := patience.lost(err)
	patience.resumes = true
	if failed == nil {
		return err
	}
	if patience.failingSince.IsZero() {
		patience.failingSince = time.Now()
	}
	delay := failed.RetryDelay
	if delay == 0 {
		delay = backoffAfter(patience.attempts)
	}
	if time.Since(patience.failingSince)+delay > patience.giveUpAfter {
		return err
	}
	patience.attempts++
	patience.onRetry(failed)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	case <-patience.closed:
		return closedError()
	}
}

// lost returns the error of an attempt that another one may make good, or nil.
func (patience *patience) lost(err error) *Error {
	var failed *Error
	var noToken *tokenError
	switch {
	case patience.resumes && errors.As(err, &noToken):
		return &Error{Code: codes.Unavailable, Message: "no token: " + noToken.err.Error()}
	case errors.As(err, &failed) && failed.Resumable():
		return failed
	}
	return nil
}

// backoffAfter returns an exponential delay with full jitter (AWS Architecture Blog, 2015).
func backoffAfter(attempts int) time.Duration {
	longest := longestBackoff
	if attempts < 6 {
		longest = firstBackoff << attempts
	}
	return time.Duration(rand.Int64N(int64(longest)))
}

// contextError returns the error of a call whose context has ended.
func contextError(ctx context.Context) error {
	return errorOf(status.FromContextError(ctx.Err()).Err())
}
