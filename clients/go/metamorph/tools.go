package metamorph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

const defaultMaxRounds = 10

// Tool is a function that the model can call, with its description for it.
type Tool struct {
	// Name is 1 to 128 letters, digits, _ and -.
	Name string
	// Description says what the function does and when to use it.
	Description string
	// InputSchema is the JSON schema of the input, an object.
	InputSchema string
	// Run returns the result: text, as a string or a []byte, or what is sent as JSON. Its error is sent to the model as
	// that of the tool.
	Run func(ctx context.Context, input json.RawMessage) (any, error)
}

// NewTool returns the tool of a function whose input is decoded from JSON.
func NewTool[Input any](
	name, description, inputSchema string, run func(ctx context.Context, input Input) (any, error),
) Tool {
	return Tool{name, description, inputSchema, func(ctx context.Context, raw json.RawMessage) (any, error) {
		var input Input
		if err := json.Unmarshal(raw, &input); err != nil {
			return nil, err
		}
		return run(ctx, input)
	}}
}

// WithMaxRounds sets how many times RunTools answers calls, 10 by default.
func WithMaxRounds(rounds int) TurnOption {
	return func(chosen *turnSettings) { chosen.maxRounds = rounds }
}

// RunTools sends a message, runs the tools that the model calls, sends their results, and so on, and returns how the
// last turn ended.
//
// Calls of one reply run at the same time, and their results are sent in the order of the calls. A tool that fails or
// panics is answered as an error, as is one that there is not. After WithMaxRounds answers the turn is returned as it is:
// its stop reason is TOOL_USE if the model would go on.
func (client *Client) RunTools(
	ctx context.Context, sessionID string, content []*chatv1.ContentBlock, tools []Tool, options ...TurnOption,
) (*chatv1.TurnFinished, error) {
	chosen := chosenBy(options)
	chosen.generation = offering(tools, chosen.generation)
	for round := 0; ; round++ {
		reply, err := client.begin(client.sent(ctx, message(sessionID, content, chosen)))
		if err != nil {
			return nil, err
		}
		finished, err := reply.Final(ctx)
		if err != nil {
			reply.Close()
			return nil, err
		}
		calls := callsOf(finished)
		if len(calls) == 0 || round == chosen.maxRounds {
			return finished, nil
		}
		parent := finished.GetMessage().GetMessageId()
		chosen.requestID, chosen.parent = newRequestID(), &parent
		content = results(ctx, tools, calls)
	}
}

// offering returns options with the tools.
func offering(tools []Tool, options *chatv1.GenerationOptions) *chatv1.GenerationOptions {
	offered := &chatv1.GenerationOptions{}
	if options != nil {
		proto.Merge(offered, options)
	}
	offered.Tools = &chatv1.ToolList{}
	for _, tool := range tools {
		offered.Tools.Values = append(offered.Tools.Values, &chatv1.Tool{
			Name: tool.Name, Description: tool.Description, InputSchema: tool.InputSchema,
		})
	}
	return offered
}

// callsOf returns the calls that a turn waits for.
func callsOf(finished *chatv1.TurnFinished) []*chatv1.ToolUseBlock {
	if finished.GetStatus() != chatv1.TurnStatus_TURN_STATUS_COMPLETED ||
		finished.GetStopReason() != chatv1.StopReason_STOP_REASON_TOOL_USE {
		return nil
	}
	var calls []*chatv1.ToolUseBlock
	for _, block := range finished.GetMessage().GetContent() {
		if call := block.GetToolUse(); call != nil {
			calls = append(calls, call)
		}
	}
	return calls
}

func results(ctx context.Context, tools []Tool, calls []*chatv1.ToolUseBlock) []*chatv1.ContentBlock {
	content := make([]*chatv1.ContentBlock, len(calls))
	var running sync.WaitGroup
	for number, call := range calls {
		running.Add(1)
		go func() {
			defer running.Done()
			text, err := run(ctx, tools, call)
			if err != nil {
				text = err.Error()
			}
			result := &chatv1.ToolResultBlock{ToolUseId: call.GetToolUseId(), IsError: err != nil}
			// A block of text must have some.
			if strings.TrimSpace(text) != "" {
				part := &chatv1.ToolResultPart_Text{Text: &chatv1.TextBlock{Text: text}}
				result.Content = []*chatv1.ToolResultPart{{Part: part}}
			}
			content[number] = &chatv1.ContentBlock{Block: &chatv1.ContentBlock_ToolResult{ToolResult: result}}
		}()
	}
	running.Wait()
	return content
}

// run returns the result of a call as text.
func run(ctx context.Context, tools []Tool, call *chatv1.ToolUseBlock) (text string, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the tool has panicked: %v", panicked)
		}
	}()
	for _, tool := range tools {
		if tool.Name != call.GetName() {
			continue
		}
		input := json.RawMessage(call.GetInput())
		if len(input) == 0 {
			input = json.RawMessage("{}")
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(input, &object); err != nil || object == nil {
			return "", errors.New("the input is no JSON object")
		}
		result, err := tool.Run(ctx, input)
		if err != nil {
			return "", err
		}
		switch result := result.(type) {
		case string:
			return result, nil
		case []byte:
			return string(result), nil
		}
		encoded, err := json.Marshal(result)
		return string(encoded), err
	}
	return "", fmt.Errorf("there is no tool %s", call.GetName())
}
