package admin

import (
	"encoding"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// operation describes one method of one path, for /v1/openapi.json. A test holds
// the descriptions against the handlers.
type operation struct {
	method, path string
	summary      string
	query        []parameter
	in           any    // what its body decodes into; nil: it has none
	out          any    // what its answer encodes; nil: it has none
	media        string // of the answer, where it is not JSON
	status       int    // of success; 0: 200
	open         bool   // needs no right, over loopback
}

// parameter is a value in the query.
type parameter struct {
	name, text string
	required   bool
}

// object is a JSON object.
type object = map[string]any

// describe makes the OpenAPI document of a server.
func describe(title string, ops []operation) object {
	d := &describer{schemas: object{}, names: map[reflect.Type]string{}}
	failure := object{"description": "why not", "content": object{"application/json": object{"schema": d.of(reflect.TypeFor[errorBody]())}}}
	paths := object{}
	for i := range ops {
		op := &ops[i]
		status := op.status
		if status == 0 {
			status = http.StatusOK
		}
		success := object{"description": http.StatusText(status)}
		switch {
		case op.media != "":
			success["content"] = object{op.media: object{}}
		case op.out != nil:
			success["content"] = object{"application/json": object{"schema": d.of(reflect.TypeOf(op.out))}}
		}
		doc := object{"summary": op.summary, "operationId": operationID(op),
			"responses": object{statusText(status): success, "default": failure}}
		if !op.open {
			doc["security"] = []object{{"token": []string{}}, {"page": []string{}}}
		}
		if params := op.parameters(); len(params) > 0 {
			doc["parameters"] = params
		}
		if op.in != nil {
			doc["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.of(reflect.TypeOf(op.in))}}}
		}
		path := strings.TrimSuffix(op.path, "{$}")
		item, _ := paths[path].(object)
		if item == nil {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(op.method)] = doc
	}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": title, "version": "1",
			"description": "Times are RFC 3339 in UTC, sizes bytes, identities libp2p peer IDs, record IDs SHA-256 in hex. Unknown fields may be added."},
		"paths": paths,
		"components": object{"schemas": d.schemas, "securitySchemes": object{
			"token": object{"type": "http", "scheme": "bearer", "description": "the token in the data directory"},
			"page":  object{"type": "apiKey", "in": "cookie", "name": "obelisk_PORT", "description": "the cookie of the page that obelisk open opened"},
		}},
	}
}

func statusText(status int) string {
	return string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})
}

// operationID names an operation: get_v1_sync_diff.
func operationID(op *operation) string {
	return strings.ToLower(op.method) + strings.NewReplacer("/", "_", "{", "", "}", "", "$", "page", ".", "_").Replace(op.path)
}

// parameters are those of the path and of the query.
func (op *operation) parameters() (list []object) {
	for _, part := range strings.Split(op.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok && name != "$}" {
			list = append(list, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, p := range op.query {
		list = append(list, object{"name": p.name, "in": "query", "required": p.required, "description": p.text, "schema": object{"type": "string"}})
	}
	return list
}

// describer makes JSON schemas of Go types as encoding/json writes them.
type describer struct {
	schemas object
	names   map[reflect.Type]string
}

var (
	timeType = reflect.TypeFor[time.Time]()
	textType = reflect.TypeFor[encoding.TextMarshaler]()
)

// of returns the schema of t, a reference where it is a struct with a name.
func (d *describer) of(t reflect.Type) object {
	switch {
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return object{"anyOf": []object{d.of(t.Elem()), {"type": "null"}}}
	case t.Implements(textType):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": d.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.of(t.Elem())}
	case reflect.Struct:
		return d.ofStruct(t)
	case reflect.Interface:
		return object{}
	default:
		return object{"type": "string"}
	}
}

func (d *describer) ofStruct(t reflect.Type) object {
	name, known := d.names[t]
	if !known {
		name = d.nameOf(t)
		d.names[t] = name
		d.schemas[name] = object{} // t may contain itself
		properties, required := object{}, []string{}
		d.fields(t, properties, &required)
		slices.Sort(required)
		d.schemas[name] = object{"type": "object", "properties": properties, "required": required}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

// nameOf finds a name for a struct that no other has.
func (d *describer) nameOf(t reflect.Type) string {
	name := t.Name()
	if name == "" {
		name = "Object"
	}
	name = strings.ToUpper(name[:1]) + name[1:]
	for unique := name; ; unique += "_" {
		if _, taken := d.schemas[unique]; !taken {
			return unique
		}
	}
}

// fields adds the fields of t, those of embedded structs too.
func (d *describer) fields(t reflect.Type, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			d.fields(f.Type, properties, required)
			continue
		case !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		properties[name] = d.of(f.Type)
		if !strings.Contains(opts, "omitempty") && !strings.Contains(opts, "omitzero") && !slices.Contains(*required, name) {
			*required = append(*required, name)
		}
	}
}

// describes registers GET /v1/openapi.json, which tells of ops and itself.
func (m *mux) describes(title string, ops []operation) {
	ops = append(slices.Clone(ops), operation{method: "GET", path: "/v1/openapi.json", summary: "This description", out: object{}, open: true})
	doc := describe(title, ops)
	m.handle("GET", "/v1/openapi.json", func(w http.ResponseWriter, r *http.Request) error {
		writeJSON(w, http.StatusOK, doc)
		return nil
	})
	m.described = ops
}
