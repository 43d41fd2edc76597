// Package metamorph is the client of a Metamorph server.
//
//	client, err := metamorph.Dial("localhost:50051", metamorph.WithToken(token))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	session, err := client.CreateSession(ctx, &chatv1.Session{Title: "Hello"})
//	if err != nil {
//		return err
//	}
//	reply, err := client.Start(ctx, session.SessionId, metamorph.Text("Hello from Go"))
//	if err != nil {
//		return err
//	}
//	for text, err := range reply.Text() {
//		if err != nil {
//			return err
//		}
//		fmt.Print(text)
//	}
//
// Calls fail with an [*Error], which errors.As finds. Replies survive lost connections, restarts of the server and
// tokens that expire: see [Client.Start].
//
// A context that is cancelled, or a loop that is left, ends a stream. It does not stop the turn, whose reply is stored
// all the same: [Client.Cancel] does.
package metamorph
