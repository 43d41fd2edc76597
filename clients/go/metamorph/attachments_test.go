package metamorph_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestAnUploadEndsWithItsContextEvenIfItsSourceDoesNotReturn(t *testing.T) {
	client := dial(t, serve(t).target)
	source, end := io.Pipe()
	defer end.Close()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Upload(soon, source, "text/plain"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestAnUploadEndsWithItsClientEvenIfItsSourceDoesNotReturn(t *testing.T) {
	client := dial(t, serve(t).target)
	source, end := io.Pipe()
	defer end.Close()
	time.AfterFunc(50*time.Millisecond, func() { client.Close() })
	_, err := client.Upload(t.Context(), source, "text/plain")
	saysItIsClosed(t, err)
}

func TestASourceIsReadToItsEndHoweverLittleItReturns(t *testing.T) {
	client, text := dial(t, serve(t).target), strings.Repeat("a", 300_000)
	for _, source := range []io.Reader{
		strings.NewReader(text), iotest.HalfReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text)),
	} {
		attachment, err := client.Upload(t.Context(), source, "text/plain")
		if err != nil || attachment.SizeBytes != 300_000 {
			t.Fatal(attachment, err)
		}
	}
	asleep := errors.New("the disk is asleep")
	if _, err := client.Upload(t.Context(), iotest.ErrReader(asleep), "text/plain"); !errors.Is(err, asleep) {
		t.Fatal(err)
	}
}
