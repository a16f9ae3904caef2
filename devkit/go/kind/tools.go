//go:build tools

// Package tools pins kind, which only the end-to-end suite uses. It is never compiled.
package tools

import _ "sigs.k8s.io/kind"
