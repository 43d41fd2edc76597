// Prints the vault that each of several calls acts on.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
	vaultv1 "metamorph.internal/go/metamorph/vault/v1"
)

func main() {
	plain, target := context.Background(), os.Getenv("METAMORPH_TARGET")
	tokens := []string{os.Getenv("ALICE"), os.Getenv("BOB")}
	alice := must(metamorph.Dial(target, metamorph.WithToken(tokens[0])))
	mine := must(metamorph.Dial(target, metamorph.WithVault("mine")))
	token := metadata.AppendToOutgoingContext(plain, "authorization", "Bearer "+tokens[1])
	yours := metadata.AppendToOutgoingContext(plain, "x-vault-id", "yours")
	fresh := must(metamorph.Dial(target, metamorph.WithTokenSource(func(context.Context) (string, error) {
		if len(tokens) == 0 {
			return "", nil
		}
		token := tokens[0]
		tokens = tokens[1:]
		return token, nil
	})))
	for _, call := range []struct {
		client *metamorph.Client
		ctx    context.Context
	}{
		{alice, plain}, {alice, token}, {alice, yours},
		{fresh, plain}, {fresh, plain}, {fresh, plain},
		{mine, plain}, {mine, yours}, {mine, token},
	} {
		fmt.Println(must(call.client.Vault.WhoAmI(call.ctx, &vaultv1.WhoAmIRequest{})).VaultId)
	}
	stream := must(alice.Chat.StreamTurn(plain, &chatv1.StreamTurnRequest{TurnId: "turn_none"}))
	_, err := stream.Recv()
	fmt.Println(status.Convert(err).Message())
	upload := must(alice.Chat.UploadAttachment(plain))
	for _, part := range []*chatv1.UploadAttachmentRequest{
		{Part: &chatv1.UploadAttachmentRequest_Header{Header: &chatv1.UploadHeader{MediaType: "text/plain"}}},
		{Part: &chatv1.UploadAttachmentRequest_Chunk{Chunk: []byte("Hello")}},
	} {
		if err := upload.Send(part); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(must(upload.CloseAndRecv()).Attachment.MediaType)
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
