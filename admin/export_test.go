package admin

import "net/http"

// Operations returns what a server's handlers are, and what its description
// tells of, each as "METHOD path".
func Operations(h http.Handler) (handled, described []string) {
	m := h.(*guard).next.(*mux)
	for path, methods := range m.paths {
		for method := range methods {
			handled = append(handled, method+" "+path)
		}
	}
	for _, op := range m.described {
		described = append(described, op.method+" "+op.path)
	}
	return handled, described
}
