//go:build tools

// Package tools pins the GCS server that tests use. It is never compiled.
package tools

import _ "github.com/fsouza/fake-gcs-server"
