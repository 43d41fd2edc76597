// Opens a session, sends a message, prints the reply as it streams: `go run ./example`, against `make run`.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"metamorph/clients/go/metamorph"
	chatv1 "metamorph/clients/go/metamorph/chat/v1"
)

func main() {
	target := cmp.Or(os.Getenv("METAMORPH_TARGET"), "localhost:50051")
	options := append(must(metamorph.DialOptions()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection := must(grpc.NewClient(target, options...))
	defer connection.Close()
	ctx := context.Background()
	if token := os.Getenv("METAMORPH_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}

	chat := chatv1.NewChatServiceClient(connection)
	created := must(chat.CreateSession(ctx, &chatv1.CreateSessionRequest{}))
	hello := &chatv1.ContentBlock{Block: &chatv1.ContentBlock_Text{Text: &chatv1.TextBlock{Text: "Hello from Go"}}}
	stream := must(chat.SendMessage(ctx, &chatv1.SendMessageRequest{
		SessionId: created.GetSession().GetSessionId(), Content: []*chatv1.ContentBlock{hello},
	}))
	for response, err := stream.Recv(); err != io.EOF; response, err = stream.Recv() {
		fmt.Print(must(response, err).GetEvent().GetTextDelta().GetText())
	}
	fmt.Println()
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
