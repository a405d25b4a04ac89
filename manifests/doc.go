// Package manifests reads what a cluster would be told, from files instead of an
// API server: YAML and JSON, several documents to a file, lists, folders. It
// returns the snapshot that packages plan and evaluator work on, the
// expectations, what it skipped, and what is wrong with the input.
//
// A file on disk lacks what an API server and the controllers add, and what
// predictions need. The steps are
//
//	split     a stream into documents, each with its file and line
//	decode    documents into typed objects, strictly: a field that the type does
//	          not have is a problem, because a misspelt selector selects
//	          everything
//	complete  what the cluster would have added: namespaces, the label with a
//	          namespace's name, a pod for each workload, addresses, EndpointSlices
//
// Whatever is made up is a function of the input alone, not of its order, so that
// two runs agree. Nothing is made up that a policy could ask for and the cluster
// could answer otherwise: labels of namespaces that the input does not hold stay
// unknown, and the evaluator says Undefined where they matter.
package manifests
