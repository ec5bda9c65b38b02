package admin

import (
	"bytes"
	"html/template"
	"net/http"
)

// A node's page says what answers here and where to look; it loads nothing and
// runs no script.
const pageFrame = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Obelisk {{.Role}}</title>
<h1>Obelisk {{.Role}}</h1>`

type nodePageData struct{ Role, Account string }

func parsePage(name, body string) *template.Template {
	return template.Must(template.New(name).Parse(pageFrame + body))
}

const nodePageText = `<p>{{.Account}}</p>
<ul>
<li><a href="/v1/status">/v1/status</a></li>
<li><a href="/v1/messages?direction=in">/v1/messages?direction=in</a>, <a href="/v1/messages?direction=out">out</a></li>
<li><a href="/v1/contacts">/v1/contacts</a>, <a href="/v1/nodes">/v1/nodes</a>, <a href="/v1/pillars">/v1/pillars</a></li>
</ul></html>
`

func writePage(w http.ResponseWriter, body string, data any) error {
	var b bytes.Buffer
	if err := parsePage("page", body).Execute(&b, data); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
	return nil
}
