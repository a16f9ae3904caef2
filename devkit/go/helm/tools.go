//go:build tools

// Package tools pins the helm of the development kit. It is never compiled.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
