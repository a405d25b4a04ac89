// Package schema validates objects against the generated CRDs the way the API
// server does (structure, defaults, CEL), in process and in milliseconds.
package schema

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	structuralpruning "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Validator checks objects of one version of one CRD.
type Validator struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *rules
}

// New reads a generated CRD file and parses the schema of its only version.
func New(crdFile string) (*Validator, error) {
	raw, err := os.ReadFile(crdFile)
	if err != nil {
		return nil, fmt.Errorf("reading CRD: %w", err)
	}
	v, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", crdFile, err)
	}
	return v, nil
}

// Parse parses the schema of the only version of a CRD. Its rules are compiled when
// an object needs them.
func Parse(raw []byte) (*Validator, error) {
	crd := &apiextv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(raw, crd); err != nil {
		return nil, fmt.Errorf("parsing the CRD: %w", err)
	}
	if n := len(crd.Spec.Versions); n != 1 {
		return nil, fmt.Errorf("the CRD has %d versions, want 1", n)
	}
	props := &apiext.JSONSchemaProps{}
	if err := apiextv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, props, nil); err != nil {
		return nil, fmt.Errorf("converting the schema: %w", err)
	}
	structural, err := structuralschema.NewStructural(props)
	if err != nil {
		return nil, fmt.Errorf("schema is not structural: %w", err)
	}
	schemaValidator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return nil, fmt.Errorf("building the schema validator: %w", err)
	}
	return &Validator{
		structural: structural,
		schema:     schemaValidator,
		rules:      &rules{structural: structural, compiled: map[string][]*cel.Validator{}},
	}, nil
}

// Validate returns every reason for which the API server would refuse the
// object, unknown fields included. It sets defaults in obj as the server does.
func (v *Validator) Validate(ctx context.Context, obj map[string]any) field.ErrorList {
	var errs field.ErrorList
	pruned := structuralpruning.PruneWithOptions(obj, v.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range pruned {
		errs = append(errs, field.Invalid(field.NewPath(path), "", "unknown field"))
	}
	defaulting.Default(obj, v.structural)
	errs = append(errs, validation.ValidateCustomResource(nil, obj, v.schema)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.structural, obj)...)
	return append(errs, v.rules.validate(ctx, obj)...)
}

// Documents splits a multi-document YAML text into objects, strictly: a
// duplicate key is an error.
func Documents(text []byte) ([]map[string]any, error) {
	var docs []map[string]any
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("splitting YAML: %w", err)
		}
		js, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, fmt.Errorf("parsing document %d: %w", len(docs)+1, err)
		}
		// utiljson keeps integers apart from floats, as the API server does.
		var obj map[string]any
		if err := utiljson.Unmarshal(js, &obj); err != nil {
			return nil, fmt.Errorf("parsing document %d: %w", len(docs)+1, err)
		}
		if obj != nil {
			docs = append(docs, obj)
		}
	}
}
