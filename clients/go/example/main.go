package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"metamorph/clients/go/metamorph"
	chatv1 "metamorph/clients/go/metamorph/chat/v1"
)

func main() {
	ctx, target := context.Background(), cmp.Or(os.Getenv("METAMORPH_TARGET"), "localhost:50051")
	client := must(metamorph.Connect(target, metamorph.Caller{Token: os.Getenv("METAMORPH_TOKEN")}))
	created := must(client.Chat.CreateSession(ctx, &chatv1.CreateSessionRequest{}))
	stream := must(client.Chat.SendMessage(ctx, &chatv1.SendMessageRequest{
		SessionId: created.Session.SessionId, Content: metamorph.Text("Hello from Go"),
	}))
	for response, err := stream.Recv(); err != io.EOF; response, err = stream.Recv() {
		fmt.Print(must(response, err).Event.GetTextDelta().GetText())
	}
	fmt.Println()
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
