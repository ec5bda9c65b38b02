package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// ErrNotRunning: nothing answers at the address of a client.
var ErrNotRunning = errors.New("nothing answers there")

// Codes of this surface beside those of overlay.
const (
	CodeUnauthorized overlay.Code = "unauthorized" // 401: no token, or a wrong one
	CodeForbidden    overlay.Code = "forbidden"    // 403: from another site
	CodeMisdirected  overlay.Code = "misdirected"  // 421: the Host is not this server
	CodeTimeout      overlay.Code = "timeout"      // 504
	CodeInternal     overlay.Code = "internal"     // 500: the log says more
	CodeBadGateway   overlay.Code = "bad_gateway"  // 502: the process behind does not answer
	CodeMethod       overlay.Code = "method_not_allowed"
	CodeConflict     overlay.Code = "conflict"
)

// errorBody is every answer that is an error.
type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Code    overlay.Code `json:"code"`
	Message string       `json:"message"`
}

// statusOf is the HTTP status that fits a code.
func statusOf(c overlay.Code) int {
	switch c {
	case overlay.CodeBadRequest:
		return http.StatusBadRequest
	case CodeUnauthorized:
		return http.StatusUnauthorized
	case CodeForbidden, overlay.CodeBlocked, overlay.CodeRegistrationClosed, overlay.CodeRemovedDevice,
		overlay.CodeNotAdmitted, overlay.CodeWrongNetwork:
		return http.StatusForbidden
	case overlay.CodeNotFound:
		return http.StatusNotFound
	case CodeMethod:
		return http.StatusMethodNotAllowed
	case CodeConflict:
		return http.StatusConflict
	case overlay.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeMisdirected:
		return http.StatusMisdirectedRequest
	case overlay.CodeInvalid, overlay.CodeTooLongLived, overlay.CodeTooManyDevices, overlay.CodeNoSealingKey:
		return http.StatusUnprocessableEntity
	case overlay.CodeQuota:
		return http.StatusTooManyRequests
	case overlay.CodeBusy, overlay.CodeFull, overlay.CodeDraining, overlay.CodeClockWrong,
		overlay.CodeUnreachable, overlay.CodeNoNetwork:
		return http.StatusServiceUnavailable
	case CodeTimeout:
		return http.StatusGatewayTimeout
	case CodeBadGateway:
		return http.StatusBadGateway
	default:
		return http.StatusInternalServerError
	}
}

// detailOf turns an error of Pillar or Node into what a client is told.
func detailOf(err error) errorDetail {
	var refusal *overlay.Error
	var size *http.MaxBytesError
	switch {
	case errors.As(err, &refusal):
		return errorDetail{refusal.Code, err.Error()}
	case errors.As(err, &size):
		return errorDetail{overlay.CodeTooLarge, fmt.Sprintf("the request's body is over %d bytes", size.Limit)}
	case errors.Is(err, identity.ErrBadID), errors.Is(err, overlay.ErrBadText):
		return errorDetail{overlay.CodeBadRequest, err.Error()}
	case errors.Is(err, overlay.ErrUnreachable), errors.Is(err, overlay.ErrWrongPeer), errors.Is(err, overlay.ErrProtocol):
		return errorDetail{overlay.CodeUnreachable, err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return errorDetail{CodeTimeout, "it took too long"}
	default:
		return errorDetail{CodeInternal, err.Error()}
	}
}

// writeError answers with err.
func writeError(w http.ResponseWriter, log *slog.Logger, err error) {
	d := detailOf(err)
	status := statusOf(d.Code)
	if status == http.StatusInternalServerError {
		log.Warn("request failed", "err", err)
	}
	var refusal *overlay.Error
	if errors.As(err, &refusal) && refusal.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(refusal.Retry.Seconds())+1))
	}
	writeJSON(w, status, errorBody{d})
}

// refuse answers with a code of this surface.
func refuse(w http.ResponseWriter, code overlay.Code, format string, args ...any) {
	writeJSON(w, statusOf(code), errorBody{errorDetail{code, fmt.Sprintf(format, args...)}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // links have & in them, and nosniff is set
	if err := e.Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":{"code":"internal","message":"the answer cannot be encoded"}}` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client went away; nobody to tell
}
