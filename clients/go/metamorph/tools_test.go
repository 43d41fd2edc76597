package metamorph_test

import (
	"context"
	"encoding/json"
	"testing"

	"metamorph.internal/go/metamorph"
	chatv1 "metamorph.internal/go/metamorph/chat/v1"
)

func TestAToolReturnsTextOrWhatIsSentAsJSON(t *testing.T) {
	for _, each := range []struct {
		returned any
		sent     string
	}{
		{"text", "text"},
		{[]byte(`{"celsius": 21}`), `{"celsius": 21}`},
		{json.RawMessage(`{"celsius":21}`), `{"celsius":21}`},
		{map[string]int{"celsius": 21}, `{"celsius":21}`},
		{nil, "null"},
	} {
		server, call := serve(t, []int32{1, 2, 3, 4, 5}), &chatv1.ToolUseBlock{ToolUseId: "toolu_1", Name: "tool"}
		server.finished = &chatv1.TurnFinished{
			Status:     chatv1.TurnStatus_TURN_STATUS_COMPLETED,
			StopReason: chatv1.StopReason_STOP_REASON_TOOL_USE,
			Message: &chatv1.Message{
				Content: []*chatv1.ContentBlock{{Block: &chatv1.ContentBlock_ToolUse{ToolUse: call}}},
			},
		}
		tool := metamorph.NewTool("tool", "", `{"type": "object"}`, func(context.Context, struct{}) (any, error) {
			return each.returned, nil
		})
		_, err := dial(t, server.target).RunTools(
			t.Context(), "ses_1", metamorph.Text("Hello"), []metamorph.Tool{tool}, metamorph.WithMaxRounds(1),
		)
		if err != nil {
			t.Fatal(err)
		}
		if sent := server.content[0].GetToolResult().GetContent()[0].GetText().GetText(); sent != each.sent {
			t.Fatal(sent)
		}
	}
}
