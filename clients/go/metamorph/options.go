package metamorph

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

const (
	defaultTimeout     = time.Minute
	defaultGiveUpAfter = 2 * time.Minute
)

// Option is an option of [Dial].
type Option func(*settings)

type settings struct {
	caller      caller
	tls         *TLSFiles
	timeout     time.Duration
	giveUpAfter time.Duration
	onRetry     func(*Error)
	dialing     []grpc.DialOption
}

// WithToken identifies the caller by a token, sent as a Bearer token. An empty one is not sent.
func WithToken(token string) Option {
	return func(chosen *settings) { chosen.caller.token, chosen.caller.source = token, nil }
}

// WithTokenSource identifies the caller by the token that source returns, which is asked for one at every call, and at
// each attempt to resume a stream: so it can return a fresh one. An empty token is not sent. An error of source is
// returned by the call, wrapped, and the call is not repeated; a stream that is resumed asks again, as after a lost
// connection. The source may be called by several goroutines at once. Its context is that of the call, with its
// deadline: return when it ends.
func WithTokenSource(source func(ctx context.Context) (string, error)) Option {
	return func(chosen *settings) { chosen.caller.token, chosen.caller.source = "", source }
}

// WithVault selects a vault of a server in dev mode.
func WithVault(vault string) Option {
	return func(chosen *settings) { chosen.caller.vault = vault }
}

// WithTLS connects with TLS, which the scheme grpcs:// does too. Without files it trusts what the system trusts.
func WithTLS(files ...TLSFiles) Option {
	return func(chosen *settings) {
		chosen.tls = &TLSFiles{}
		if len(files) > 0 {
			chosen.tls = &files[len(files)-1]
		}
	}
}

// WithTimeout sets the deadline of unary calls whose context has none, one minute by default. None is set if it is zero.
func WithTimeout(timeout time.Duration) Option {
	return func(chosen *settings) { chosen.timeout = timeout }
}

// WithGiveUpAfter sets how long after the last progress a reply, an upload or a download is given up, two minutes by
// default.
func WithGiveUpAfter(duration time.Duration) Option {
	return func(chosen *settings) { chosen.giveUpAfter = duration }
}

// WithOnRetry sets a function that is called with the error of a reply, an upload or a download before it is tried
// again. A nil one is none.
func WithOnRetry(retry func(*Error)) Option {
	return func(chosen *settings) {
		if retry != nil {
			chosen.onRetry = retry
		}
	}
}

// WithDialOptions passes options on to gRPC, such as interceptors. They come last, and replace the client's own.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(chosen *settings) { chosen.dialing = append(chosen.dialing, options...) }
}
