package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"

	"metamorph.internal/go/metamorph"
)

func main() {
	ctx, target := context.Background(), cmp.Or(os.Getenv("METAMORPH_TARGET"), "localhost:50051")
	client := must(metamorph.Dial(target, metamorph.WithToken(os.Getenv("METAMORPH_TOKEN"))))
	defer client.Close()
	session := must(client.CreateSession(ctx, nil))
	reply := must(client.Start(ctx, session.SessionId, metamorph.Text("Hello from Go")))
	for text, err := range reply.Text() {
		fmt.Print(must(text, err))
	}
	fmt.Println()
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
