package metamorph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	callIDKey       = "x-request-id"
	shownViolations = 3
)

// Reasons of errors after which the same call may succeed: a new token helps with the first two, and waiting with the
// others.
var resumableReasons = map[string]bool{
	"TOKEN_EXPIRED": true, "TOKEN_REVOKED": true, "RATE_LIMITED": true, "READER_TOO_SLOW": true, "STORE_BUSY": true,
}

// Signs of a handshake that no further attempt can change, and what they mean.
var tlsFaults = []struct{ sign, meaning string }{
	{"failed to verify certificate", "the server's certificate is not trusted: name its authority as CA of WithTLS, and " +
		"the server as its certificate does"},
	{"first record does not look like a TLS handshake", "the server does not speak TLS: leave out WithTLS and grpcs://"},
	{"remote error: tls: certificate required", "the server asks for the client's certificate: give Cert and Key of WithTLS"},
}

// Signs of a call that gRPC itself refuses to send.
var localFaults = []string{"grpc: error while marshaling", "header list size to send violates"}

// Violation is a field of a request that breaks a rule, and the rule.
type Violation struct {
	Field, Description string
}

// Error is a call that failed, most often because the server refused it. errors.As finds it:
//
//	var failed *metamorph.Error
//	if errors.As(err, &failed) && failed.Reason == "SESSION_NOT_FOUND" {
//
// errors.Is(err, context.Canceled) and errors.Is(err, context.DeadlineExceeded) hold for those codes.
type Error struct {
	Code codes.Code
	// Reason is an ErrorReason without its prefix, such as "SESSION_NOT_FOUND", or empty if the error has none.
	Reason  string
	Message string
	// Metadata has what the reason documents.
	Metadata map[string]string
	// RetryDelay is how long to wait before another attempt, or zero if the server does not say.
	RetryDelay time.Duration
	// Violations are the fields that are invalid.
	Violations []Violation
	// CallID names the call in the server's log. It may be empty.
	CallID string

	status *status.Status
	lasts  bool
}

// Error returns the reason, or the name of the code if there is none, the message, and the first violations.
func (failed *Error) Error() string {
	text := cmp.Or(failed.Reason, code.Code(failed.Code).String()) + ": " + failed.Message
	if len(failed.Violations) == 0 {
		return text
	}
	var shown []string
	for _, each := range failed.Violations[:min(shownViolations, len(failed.Violations))] {
		shown = append(shown, strings.TrimPrefix(each.Field+": "+each.Description, ": "))
	}
	if more := len(failed.Violations) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return text + " (" + strings.Join(shown, "; ") + ")"
}

// Unwrap returns the error of gRPC.
func (failed *Error) Unwrap() error {
	return failed.GRPCStatus().Err()
}

// GRPCStatus returns the status of the call, which status.FromError finds.
func (failed *Error) GRPCStatus() *status.Status {
	if failed.status != nil {
		return failed.status
	}
	return status.New(failed.Code, failed.Message)
}

// Is returns whether the call ended because of its context.
func (failed *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return failed.Code == codes.Canceled
	case context.DeadlineExceeded:
		return failed.Code == codes.DeadlineExceeded
	}
	return false
}

// Resumable returns whether the same call, or StreamTurn, may succeed later. It may if the server says how long to wait.
func (failed *Error) Resumable() bool {
	switch failed.Code {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return !failed.lasts
	}
	return (resumableReasons[failed.Reason] || failed.RetryDelay > 0) && !failed.lasts
}

// incomplete returns the error of a stream that has ended OK, or goes on, without an event that it must have.
func incomplete(message string) *Error {
	return &Error{Code: codes.Internal, Message: message}
}

// errorOf returns the error of a failed call, with its google.rpc details (AIP-193) unpacked.
func errorOf(err error, metadata ...metadata.MD) *Error {
	if failed, ok := err.(*Error); ok {
		return failed
	}
	found := status.Convert(err)
	var inner interface{ GRPCStatus() *status.Status }
	if errors.As(err, &inner) {
		// Without what gRPC says in front of it, such as how many attempts there were.
		found = inner.GRPCStatus()
	}
	failed := &Error{Code: found.Code(), Message: found.Message(), status: found}
	for _, each := range metadata {
		if ids := each.Get(callIDKey); len(ids) > 0 {
			failed.CallID = ids[0]
		}
	}
	for _, detail := range found.Details() {
		failed.add(detail)
	}
	failed.lasts = failed.Code == codes.Internal && slices.ContainsFunc(localFaults, func(sign string) bool {
		return strings.Contains(failed.Message, sign)
	})
	for _, fault := range tlsFaults {
		if failed.Code == codes.Unavailable && strings.Contains(failed.Message, fault.sign) {
			failed.explain(fault.meaning)
			failed.lasts = true
			break
		}
	}
	return failed
}

// explain puts a meaning before the message.
func (failed *Error) explain(meaning string) {
	failed.Message = meaning + " (" + failed.Message + ")"
}

func (failed *Error) add(detail any) {
	switch detail := detail.(type) {
	case *errdetails.ErrorInfo:
		failed.Reason, failed.Metadata = detail.Reason, detail.Metadata
	case *errdetails.RetryInfo:
		failed.RetryDelay = detail.RetryDelay.AsDuration()
	case *errdetails.RequestInfo:
		failed.CallID = detail.RequestId
	case *errdetails.BadRequest:
		for _, each := range detail.FieldViolations {
			failed.Violations = append(failed.Violations, Violation{each.Field, each.Description})
		}
	}
}
