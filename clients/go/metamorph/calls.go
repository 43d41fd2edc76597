package metamorph

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	return errors.Join(printable("token", caller.token), printable("vault", caller.vault))
}

// identify returns a context whose outgoing metadata identifies the caller.
func (caller caller) identify(ctx context.Context) (context.Context, error) {
	given, _ := metadata.FromOutgoingContext(ctx)
	// Not one of each: the server refuses a vault beside a token.
	if len(given.Get("authorization"))+len(given.Get("x-vault-id")) > 0 {
		return ctx, nil
	}
	token := caller.token
	if caller.source != nil {
		fresh, err := caller.source(ctx)
		if err != nil {
			return nil, fmt.Errorf("metamorph: no token: %w", err)
		}
		if err := printable("token", fresh); err != nil {
			return nil, fmt.Errorf("metamorph: %w", err)
		}
		token = fresh
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	if caller.vault != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-vault-id", caller.vault)
	}
	return ctx, nil
}

// printable returns an error for what gRPC cannot send as metadata.
func printable(name, value string) error {
	for _, letter := range value {
		if letter < ' ' || letter > '~' {
			return fmt.Errorf("the %s must be printable ASCII, and has %q", name, letter)
		}
	}
	return nil
}

// calls makes the calls of stubs: each says who calls, has a deadline if it is unary, and fails with *Error.
type calls struct {
	caller  caller
	timeout time.Duration
}

func (calls calls) unary(
	ctx context.Context, method string, request, reply any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, ok := ctx.Deadline(); !ok && calls.timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, calls.timeout)
		defer cancel()
		ctx = limited
	}
	identified, err := calls.caller.identify(ctx)
	if err != nil {
		return err
	}
	var header, trailer metadata.MD
	options = append(options, grpc.Header(&header), grpc.Trailer(&trailer))
	if err := invoke(identified, method, request, reply, connection, options...); err != nil {
		return errorOf(err, header, trailer)
	}
	return nil
}

func (calls calls) stream(
	ctx context.Context, description *grpc.StreamDesc,
	connection *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	identified, err := calls.caller.identify(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := open(identified, description, connection, method, options...)
	if err != nil {
		return nil, errorOf(err)
	}
	return failing{opened}, nil
}

// failing is a stream that fails with *Error.
type failing struct {
	grpc.ClientStream
}

func (stream failing) SendMsg(message any) error {
	return stream.error(stream.ClientStream.SendMsg(message))
}

func (stream failing) RecvMsg(message any) error {
	return stream.error(stream.ClientStream.RecvMsg(message))
}

func (stream failing) error(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	// The stream has ended, so it has both.
	header, _ := stream.Header()
	return errorOf(err, header, stream.Trailer())
}
