package metamorph

import (
	"context"
	"errors"
	"iter"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

// TurnOption is an option of what starts a turn: Start, Send, Regenerate and RunTools.
type TurnOption func(*turnSettings)

type turnSettings struct {
	generation *chatv1.GenerationOptions
	labels     map[string]string
	parent     *string
	requestID  string
	maxRounds  int
}

// WithGeneration sets options of the model, such as its name. What they leave out is the session's.
func WithGeneration(options *chatv1.GenerationOptions) TurnOption {
	return func(chosen *turnSettings) { chosen.generation = options }
}

// WithLabels sets labels of the turn, by which usage is added up.
func WithLabels(labels map[string]string) TurnOption {
	return func(chosen *turnSettings) { chosen.labels = labels }
}

// WithParent sets the message that a sent one follows, instead of the last one of the session. Regenerate takes none.
func WithParent(messageID string) TurnOption {
	return func(chosen *turnSettings) { chosen.parent = &messageID }
}

// WithRequestID sets the ID under which the call takes effect once. The client makes one otherwise. RunTools uses it for
// its first message.
func WithRequestID(requestID string) TurnOption {
	return func(chosen *turnSettings) { chosen.requestID = requestID }
}

func chosenBy(options []TurnOption) turnSettings {
	chosen := turnSettings{maxRounds: defaultMaxRounds}
	for _, option := range options {
		option(&chosen)
	}
	if chosen.requestID == "" {
		chosen.requestID = newRequestID()
	}
	return chosen
}

// CreateSession creates a session of the fields that a caller may set: Title, Model, SystemPrompt, Metadata, Labels and
// others. A nil one has none of them. It has a request ID, but is not repeated by itself.
func (client *Client) CreateSession(ctx context.Context, session *chatv1.Session) (*chatv1.Session, error) {
	request := &chatv1.CreateSessionRequest{Session: session, RequestId: newRequestID()}
	response, err := client.Chat.CreateSession(ctx, request)
	return response.GetSession(), err
}

// Start sends a message, and returns its reply once the message and the turn are stored. It fails if the server refuses
// the message, so that nothing has started, or cannot be reached in time.
//
// The reply survives lost connections, restarts of the server, streams that end too early, tokens that have expired or
// were revoked (a token source is asked again), and limits, until WithGiveUpAfter has passed since the last event. The
// turn may be running even then, and can be followed.
//
// The context is that of the reply's stream too. When it is cancelled, the turn goes on.
func (client *Client) Start(
	ctx context.Context, sessionID string, content []*chatv1.ContentBlock, options ...TurnOption,
) (*Reply, error) {
	return client.begin(client.sent(ctx, message(sessionID, content, chosenBy(options))))
}

// Send sends a message and yields the events of its turn, like Start and Reply.Events. It calls nothing before the loop
// over it begins. A second loop replays the same turn.
func (client *Client) Send(
	ctx context.Context, sessionID string, content []*chatv1.ContentBlock, options ...TurnOption,
) iter.Seq2[*chatv1.TurnEvent, error] {
	request := message(sessionID, content, chosenBy(options))
	return func(yield func(*chatv1.TurnEvent, error) bool) {
		client.sent(ctx, request).all()(yield)
	}
}

// Regenerate returns another reply to a user's message, once its turn is stored. It fails like Start.
func (client *Client) Regenerate(ctx context.Context, userMessageID string, options ...TurnOption) (*Reply, error) {
	chosen := chosenBy(options)
	if chosen.parent != nil {
		return nil, errors.New("metamorph: Regenerate takes no WithParent: the reply follows the user's message")
	}
	request := &chatv1.RegenerateReplyRequest{
		UserMessageId: userMessageID,
		RequestId:     chosen.requestID,
		Options:       chosen.generation,
		Labels:        chosen.labels,
	}
	return client.begin(client.starting(ctx, func(ctx context.Context) (receiver, error) {
		stream, err := client.Chat.RegenerateReply(ctx, request)
		if err != nil {
			return nil, err
		}
		return receiving(stream.Recv), nil
	}))
}

// Follow returns the rest of a turn's reply, after the event of a sequence, once the server has accepted it. Of a turn
// that has ended with that event it has no event. It fails like Start, before anything streams, and lasts like it.
func (client *Client) Follow(ctx context.Context, turnID string, afterSequence int32) (*Reply, error) {
	events := client.starting(ctx, nil)
	events.turnID, events.sequence = turnID, afterSequence
	if err := events.accepted(); err != nil {
		events.close()
		return nil, err
	}
	return &Reply{TurnID: turnID, client: client, events: events}, nil
}

// Cancel stops a turn and returns it once it has ended. It does nothing to one that has ended.
func (client *Client) Cancel(ctx context.Context, turnID string) (*chatv1.Turn, error) {
	response, err := client.Chat.CancelTurn(ctx, &chatv1.CancelTurnRequest{TurnId: turnID})
	return response.GetTurn(), err
}

func message(
	sessionID string, content []*chatv1.ContentBlock, chosen turnSettings,
) *chatv1.SendMessageRequest {
	return &chatv1.SendMessageRequest{
		SessionId:       sessionID,
		Content:         content,
		RequestId:       chosen.requestID,
		Options:         chosen.generation,
		Labels:          chosen.labels,
		ParentMessageId: chosen.parent,
	}
}

func (client *Client) sent(ctx context.Context, request *chatv1.SendMessageRequest) *turnEvents {
	return client.starting(ctx, func(ctx context.Context) (receiver, error) {
		stream, err := client.Chat.SendMessage(ctx, request)
		if err != nil {
			return nil, err
		}
		return receiving(stream.Recv), nil
	})
}

func (client *Client) starting(
	ctx context.Context, start func(ctx context.Context) (receiver, error),
) *turnEvents {
	return &turnEvents{ctx: ctx, chat: client.Chat, patience: client.patience(), start: start}
}
