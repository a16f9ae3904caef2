//go:build tools

// Package tools pins the S3 server of the development kit. It is never compiled.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
