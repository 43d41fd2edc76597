// Streams replies to a browser: `go run -C examples/browser/nethttp .`, then http://localhost:8000.
//
// The cookie `token` is the user's own, such as token_exchange.py sets. Each call passes it on, so that the server
// decides what this user may do, and in which vault. In dev mode there need not be one.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

var statuses = map[codes.Code]int{
	codes.InvalidArgument: 422, codes.AlreadyExists: 422, codes.OutOfRange: 422, codes.Unauthenticated: 401,
	codes.PermissionDenied: 403, codes.NotFound: 404, codes.FailedPrecondition: 409, codes.Aborted: 409,
	codes.ResourceExhausted: 429, codes.Unavailable: 503,
}

func main() {
	target := cmp.Or(os.Getenv("METAMORPH_TARGET"), "localhost:50051")
	client, err := metamorph.Dial(target, metamorph.WithGiveUpAfter(20*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	// Not the default one, on which gRPC serves /debug/requests.
	mux := http.NewServeMux()
	mux.Handle("POST /replies", answering(client, ask))
	mux.Handle("GET /replies/{turn}", answering(client, stream))
	mux.Handle("DELETE /replies/{turn}", answering(client, cancel))
	mux.Handle("GET /", http.FileServer(http.Dir("../page")))
	server := http.Server{Addr: "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8000"), Handler: mux, ReadTimeout: time.Minute}
	log.Fatal(server.ListenAndServe())
}

// answering serves a request as its user, and answers what is refused before anything was written.
func answering(
	client *metamorph.Client, serve func(*metamorph.Client, http.ResponseWriter, *http.Request) error,
) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cookie, _ := r.Cookie("token")
		r.SetPathValue("turn", strings.ToValidUTF8(r.PathValue("turn"), "\uFFFD")) // As all text of a request must be.
		var refusal *metamorph.Error
		if err := serve(client.WithToken(cmp.Or(cookie, new(http.Cookie)).Value), w, r); errors.As(err, &refusal) {
			if refusal.RetryDelay > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(math.Ceil(refusal.RetryDelay.Seconds())))
			}
			refuse(w, cmp.Or(statuses[refusal.Code], 500), refusal.Reason, refusal.Error())
		} else if err != nil {
			refuse(w, 401, "", err.Error()) // No token is like this one.
		}
	}
}

func answer(w http.ResponseWriter, status int, body map[string]string) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
	return nil
}

func refuse(w http.ResponseWriter, status int, reason, message string) error {
	return answer(w, status, map[string]string{"reason": reason, "message": message})
}

func ask(client *metamorph.Client, w http.ResponseWriter, r *http.Request) error {
	var question struct{ Text, Session_id string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&question)
	switch length := len([]rune(question.Text)); {
	case errors.As(err, new(*http.MaxBytesError)):
		return refuse(w, 413, "", "the body has more than 64 KiB")
	case err != nil:
		return refuse(w, 422, "", "the body must be JSON: text and session_id, which are strings")
	case length < 1 || length > 8000:
		return refuse(w, 422, "", "text must have 1 to 8000 characters")
	case strings.ContainsFunc(question.Session_id, func(c rune) bool { return c <= ' ' || c > '~' }):
		return refuse(w, 422, "", "session_id must be the ID of a session")
	}
	// The page sends the same one if it has to send its request again.
	session, key := question.Session_id, strings.Trim(r.Header.Get("Idempotency-Key"), `"`)
	if session == "" {
		created, err := client.Chat.CreateSession(r.Context(), &chatv1.CreateSessionRequest{RequestId: key})
		if err != nil {
			return err
		}
		session = created.Session.SessionId
	}
	reply, err := client.Start(r.Context(), session, metamorph.Text(question.Text), metamorph.WithRequestID(key))
	if err != nil {
		return err
	}
	reply.Close() // This stream only. The turn goes on.
	return answer(w, 201, map[string]string{"session_id": session, "turn_id": reply.TurnID})
}

func stream(client *metamorph.Client, w http.ResponseWriter, r *http.Request) error {
	found, err := client.Chat.GetTurn(r.Context(), &chatv1.GetTurnRequest{TurnId: r.PathValue("turn")})
	if err != nil {
		return err
	}
	turn, after := found.Turn, int32(0)
	seen, sequence, _ := strings.Cut(r.Header.Get("Last-Event-ID"), ":")
	if known, err := strconv.ParseUint(sequence, 10, 31); err == nil && seen == turn.TurnId {
		after = int32(known)
	}
	if turn.Status != chatv1.TurnStatus_TURN_STATUS_RUNNING && after >= turn.LastSequence {
		w.WriteHeader(204) // Nothing is left: the browser asks no more.
		return nil
	}
	reply, err := client.Follow(r.Context(), turn.TurnId, after)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	for event, err := range reply.Events() {
		if err != nil {
			break // The browser asks again, with its Last-Event-ID.
		}
		data, _ := protojson.Marshal(event)
		fmt.Fprintf(w, "id: %s:%d\ndata: %s\n\n", turn.TurnId, event.Sequence, data)
		http.NewResponseController(w).Flush()
	}
	return nil
}

func cancel(client *metamorph.Client, w http.ResponseWriter, r *http.Request) error {
	_, err := client.Cancel(r.Context(), r.PathValue("turn"))
	if err == nil {
		w.WriteHeader(204)
	}
	return err
}
