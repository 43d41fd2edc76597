package metamorph

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"google.golang.org/grpc/codes"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

const chunkBytes = 256 * 1024

// errLeft ends a call whose loop was left.
var errLeft = errors.New("left")

// Upload stores an image or a document. Lost connections are survived if the source is an io.Seeker too, as a
// bytes.Reader or a file: others cannot be read twice. When the context ends, Upload returns, even if a Read of the
// source does not: the source is in use until that has returned.
func (client *Client) Upload(ctx context.Context, source io.Reader, mediaType string) (*chatv1.Attachment, error) {
	patience := client.patience()
	seeker, repeatable := source.(io.Seeker)
	var start int64
	if repeatable {
		var err error
		start, err = seeker.Seek(0, io.SeekCurrent)
		// Not every file can be read twice: a pipe cannot.
		repeatable = err == nil
	}
	for {
		attachment, err := client.uploadOnce(ctx, source, mediaType)
		if err == nil || !repeatable {
			return attachment, err
		}
		if err := patience.wait(ctx, err); err != nil {
			return nil, err
		}
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return nil, fmt.Errorf("metamorph: the source cannot be read again: %w", err)
		}
	}
}

// UploadFile stores the image or the document of a file, see Upload.
func (client *Client) UploadFile(ctx context.Context, path, mediaType string) (*chatv1.Attachment, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("metamorph: %w", err)
	}
	defer file.Close()
	return client.Upload(ctx, file, mediaType)
}

func (client *Client) uploadOnce(
	ctx context.Context, source io.Reader, mediaType string,
) (*chatv1.Attachment, error) {
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Chat.UploadAttachment(attempt)
	if err != nil {
		return nil, err
	}
	header := &chatv1.UploadHeader{MediaType: mediaType}
	err = stream.Send(&chatv1.UploadAttachmentRequest{Part: &chatv1.UploadAttachmentRequest_Header{Header: header}})
	for err == nil {
		chunk, failed := client.readChunk(ctx, source)
		if failed != nil && failed != io.EOF {
			return nil, failed
		}
		if len(chunk) > 0 {
			part := &chatv1.UploadAttachmentRequest_Chunk{Chunk: chunk}
			err = stream.Send(&chatv1.UploadAttachmentRequest{Part: part})
		}
		if failed == io.EOF {
			break
		}
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	// After io.EOF it returns why the server has ended the call.
	response, err := stream.CloseAndRecv()
	return response.GetAttachment(), err
}

// readChunk returns the next bytes of a source, and io.EOF with the last ones. It returns when the context ends or the
// client is closed, even if the source does not.
func (client *Client) readChunk(ctx context.Context, source io.Reader) ([]byte, error) {
	// A new one each time: gRPC keeps what it may have to repeat.
	chunk := make([]byte, chunkBytes)
	var size int
	var failed error
	read := make(chan struct{})
	go func() {
		defer close(read)
		size, failed = io.ReadFull(source, chunk)
	}()
	select {
	case <-read:
	case <-ctx.Done():
		return nil, contextError(ctx)
	case <-client.calls.closed:
		return nil, closedError()
	}
	switch failed {
	case nil, io.EOF:
		return chunk[:size], failed
	case io.ErrUnexpectedEOF:
		return chunk[:size], io.EOF
	}
	return nil, fmt.Errorf("metamorph: the source cannot be read: %w", failed)
}

// Download yields the bytes of an attachment in chunks. Lost connections are survived. It calls nothing before the loop
// over it begins. The last error has the code DataLoss if their size or SHA-256 is not the attachment's.
func (client *Client) Download(ctx context.Context, attachmentID string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		patience, digest, size := client.patience(), sha256.New(), 0
		for {
			attachment, err := client.downloadOnce(ctx, attachmentID, size, func(chunk []byte) bool {
				digest.Write(chunk)
				size += len(chunk)
				patience.progress()
				return yield(chunk, nil)
			})
			if err == errLeft {
				return
			}
			if err != nil {
				if err = patience.wait(ctx, err); err != nil {
					yield(nil, err)
					return
				}
				continue
			}
			if size != int(attachment.GetSizeBytes()) || hex.EncodeToString(digest.Sum(nil)) != attachment.GetSha256() {
				message := "%d bytes of attachment %s arrived, which are not those that were stored"
				yield(nil, &Error{Code: codes.DataLoss, Message: fmt.Sprintf(message, size, attachmentID)})
			}
			return
		}
	}
}

// downloadOnce passes on the bytes after the first skip ones, which an earlier call has brought, and returns the
// attachment, or errLeft if the loop was left.
func (client *Client) downloadOnce(
	ctx context.Context, attachmentID string, skip int, pass func(chunk []byte) bool,
) (*chatv1.Attachment, error) {
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &chatv1.DownloadAttachmentRequest{AttachmentId: attachmentID}
	stream, err := client.Chat.DownloadAttachment(attempt, request)
	if err != nil {
		return nil, err
	}
	var attachment *chatv1.Attachment
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return attachment, nil
		}
		if err != nil {
			return nil, err
		}
		if found := response.GetAttachment(); found != nil {
			attachment = found
		}
		chunk := response.GetChunk()
		known := min(skip, len(chunk))
		skip -= known
		if rest := chunk[known:]; len(rest) > 0 && !pass(rest) {
			return nil, errLeft
		}
	}
}
