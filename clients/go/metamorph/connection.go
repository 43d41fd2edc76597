package metamorph

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// noPreface is what gRPC says of a server that does not begin with HTTP/2.
const noPreface = "error reading server preface"

// closedError returns the error of every call of a client that is closed.
func closedError() *Error {
	return &Error{Code: codes.Canceled, Message: "the client is closed", lasts: true}
}

// connection is what a client and its other identities share.
type connection struct {
	grpc *grpc.ClientConn
	// Whether it has no TLS.
	plain  bool
	closed chan struct{}
	close  func() error
}

func newConnection(opened *grpc.ClientConn, plain bool) *connection {
	closed := make(chan struct{})
	return &connection{opened, plain, closed, sync.OnceValue(func() error {
		// First, so that what fails because of it can be seen to.
		close(closed)
		return opened.Close()
	})}
}

func (connection *connection) isClosed() bool {
	select {
	case <-connection.closed:
		return true
	default:
		return false
	}
}

// failure returns the error of a call that failed. It lasts if the client was closed meanwhile, or if no other token can
// be had.
func (connection *connection) failure(ctx context.Context, err error, renews bool, metadata ...metadata.MD) *Error {
	failed := errorOf(err, metadata...)
	cutOff := failed.Code == codes.Canceled || failed.Code == codes.Unavailable
	if cutOff && ctx.Err() == nil && connection.isClosed() {
		return closedError()
	}
	if connection.plain && failed.Code == codes.Unavailable && strings.Contains(failed.Message, noPreface) {
		// It may be ending just now, so another attempt may help.
		failed.explain("no gRPC comes from the server: if it speaks TLS, ask for it with grpcs:// or WithTLS")
	}
	failed.lasts = failed.lasts || failed.Code == codes.Unauthenticated && !renews
	return failed
}
