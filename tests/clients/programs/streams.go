// Prints the sequences of the events of several streams, and how each failed.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc/status"

	"metamorph/clients/go/metamorph"
	chatv1 "metamorph/clients/go/metamorph/chat/v1"
)

func main() {
	for _, line := range strings.Fields(os.Getenv("STREAMS")) {
		parts := strings.Split(line, "/")
		client := must(metamorph.Connect(parts[2], metamorph.Caller{}))
		seen := []string{}
		receive := begin(client, parts[0], parts[1])
		event, err := receive()
		for ; err == nil; event, err = receive() {
			seen = append(seen, strconv.Itoa(int(event.Sequence)))
		}
		if err != io.EOF {
			seen = append(seen, status.Convert(err).Message())
		}
		fmt.Println(strings.Join(seen, " "))
	}
}

func begin(client *metamorph.Client, method, argument string) func() (*chatv1.TurnEvent, error) {
	ctx := context.Background()
	switch method {
	case "send":
		request := &chatv1.SendMessageRequest{SessionId: "ses_1", RequestId: argument}
		return events(must(client.Chat.SendMessage(ctx, request)).Recv)
	case "regenerate":
		request := &chatv1.RegenerateReplyRequest{UserMessageId: "msg_1", RequestId: argument}
		return events(must(client.Chat.RegenerateReply(ctx, request)).Recv)
	default:
		request := &chatv1.StreamTurnRequest{TurnId: "turn_1", AfterSequence: int32(must(strconv.Atoi(argument)))}
		return events(must(client.Chat.StreamTurn(ctx, request)).Recv)
	}
}

func events[T interface{ GetEvent() *chatv1.TurnEvent }](receive func() (T, error)) func() (*chatv1.TurnEvent, error) {
	return func() (*chatv1.TurnEvent, error) {
		response, err := receive()
		if err != nil {
			return nil, err
		}
		return response.GetEvent(), nil
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
