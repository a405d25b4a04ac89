// Package crd holds the generated CustomResourceDefinitions, so that a binary
// can validate objects without files beside it.
package crd

import _ "embed"

// ConnectivityExpectations is the definition of ConnectivityExpectation, as YAML.
//
//go:embed bases/pathproof.dev_connectivityexpectations.yaml
var ConnectivityExpectations []byte
