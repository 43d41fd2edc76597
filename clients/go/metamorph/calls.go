package metamorph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// caller is who calls: a token, or a vault in dev mode.
type caller struct {
	token  string
	source func(ctx context.Context) (string, error)
	vault  string
}

func (caller caller) check() error {
	return errors.Join(sendable("token", caller.token), sendable("vault", caller.vault))
}

// identify returns a context whose outgoing metadata identifies the caller, and whether another attempt would have
// another token.
func (caller caller) identify(ctx context.Context) (identified context.Context, renews bool, err error) {
	given, _ := metadata.FromOutgoingContext(ctx)
	// Not one of each: the server refuses a vault beside a token.
	if len(given.Get("authorization"))+len(given.Get("x-vault-id")) > 0 {
		return ctx, false, nil
	}
	token := caller.token
	if caller.source != nil {
		token, err = caller.source(ctx)
		if ctx.Err() != nil {
			return nil, false, contextError(ctx)
		}
		if err != nil {
			return nil, false, &tokenError{err}
		}
	}
	if err := sendable("token", token); err != nil {
		return nil, false, fmt.Errorf("metamorph: %w", err)
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	if caller.vault != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-vault-id", caller.vault)
	}
	return ctx, caller.source != nil, nil
}

// tokenError says that a token source has failed.
type tokenError struct {
	err error
}

func (failed *tokenError) Error() string {
	return "metamorph: no token: " + failed.err.Error()
}

func (failed *tokenError) Unwrap() error {
	return failed.err
}

// sendable returns an error for what no token or vault has, and gRPC may not be able to send as metadata.
func sendable(name, value string) error {
	for _, letter := range value {
		if letter <= ' ' || letter > '~' {
			return fmt.Errorf("the %s must be printable ASCII without spaces, and has %q", name, letter)
		}
	}
	return nil
}

// calls makes the calls of stubs: each says who calls, has a deadline if it is unary, and fails with *Error.
type calls struct {
	*connection
	caller  caller
	timeout time.Duration
}

func (calls calls) Invoke(ctx context.Context, method string, request, reply any, options ...grpc.CallOption) error {
	if calls.isClosed() {
		return closedError()
	}
	if _, ok := ctx.Deadline(); !ok && calls.timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, calls.timeout)
		defer cancel()
		ctx = limited
	}
	identified, renews, err := calls.caller.identify(ctx)
	if err != nil {
		return err
	}
	var header, trailer metadata.MD
	options = append(slices.Clip(options), grpc.Header(&header), grpc.Trailer(&trailer))
	if err := calls.grpc.Invoke(identified, method, request, reply, options...); err != nil {
		return calls.failure(ctx, err, renews, header, trailer)
	}
	return nil
}

func (calls calls) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	if calls.isClosed() {
		return nil, closedError()
	}
	identified, renews, err := calls.caller.identify(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := calls.grpc.NewStream(identified, description, method, options...)
	if err != nil {
		return nil, calls.failure(ctx, err, renews)
	}
	return failing{opened, ctx, calls, renews}, nil
}

// failing is a stream that fails with *Error.
type failing struct {
	grpc.ClientStream
	// That of the stream ends with it.
	ctx    context.Context
	calls  calls
	renews bool
}

func (stream failing) SendMsg(message any) error {
	return stream.failure(stream.ClientStream.SendMsg(message))
}

func (stream failing) RecvMsg(message any) error {
	return stream.failure(stream.ClientStream.RecvMsg(message))
}

func (stream failing) failure(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	// The stream has ended, so it has both.
	header, _ := stream.Header()
	return stream.calls.failure(stream.ctx, err, stream.renews, header, stream.Trailer())
}
