package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// validity is far beyond the life of any lab, which is made anew each time.
const validity = 10 * 365 * 24 * time.Hour

// authority signs the certificates of one lab.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identity is what a certificate says of its holder.
type identity struct {
	file   string
	name   string
	groups []string
	dns    []string
	ips    []net.IP
}

// certificates makes one authority, the certificates of all components and
// their kubeconfigs.
func (l *Lab) certificates() error {
	if err := os.MkdirAll(pkiDir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority()
	if err != nil {
		return fmt.Errorf("making the certificate authority: %w", err)
	}
	identities := []identity{
		{file: "apiserver", name: "kube-apiserver",
			dns: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			ips: []net.IP{net.IPv4(127, 0, 0, 1), apiService.AsSlice(), hostAddr.AsSlice()}},
		{file: "apiserver-kubelet", name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "front-proxy", name: "front-proxy-client"},
		{file: "admin", name: "pathproof-lab-admin", groups: []string{"system:masters"}},
		{file: "controller-manager", name: "system:kube-controller-manager"},
		{file: "scheduler", name: "system:kube-scheduler"},
		{file: "kube-proxy", name: "system:kube-proxy"},
		{file: "agent", name: "pathproof-lab-agent"},
	}
	for _, n := range l.nodes {
		identities = append(identities, identity{
			file: n.Name, name: "system:node:" + n.Name, groups: []string{"system:nodes"},
			dns: []string{n.Name}, ips: []net.IP{n.Addr.AsSlice()},
		})
	}
	for _, id := range identities {
		if err := ca.issue(id); err != nil {
			return fmt.Errorf("issuing the certificate of %s: %w", id.name, err)
		}
		if err := writeKubeconfig(kubeconfigOf(id.file), id.file); err != nil {
			return err
		}
	}
	if err := writeKubeconfig(Kubeconfig, "admin"); err != nil {
		return err
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(serviceAccounts.Public())
	if err != nil {
		return err
	}
	if err := writePEM(pki("service-accounts.pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(pki("service-accounts.key"), serviceAccounts)
}

func newAuthority() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	t := certificate("pathproof-lab", nil)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	if err := writePEM(pki("ca.crt"), "CERTIFICATE", der); err != nil {
		return authority{}, err
	}
	return authority{cert: cert, key: key}, writeKey(pki("ca.key"), key)
}

func certificate(name string, groups []string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		// An hour back, for clocks that are set while the lab runs.
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(validity),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
}

// issue makes a certificate that serves both ends of a connection.
func (a authority) issue(id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := certificate(id.name, id.groups)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	t.DNSNames, t.IPAddresses = id.dns, id.ips
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writePEM(pki(id.file+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(pki(id.file+".key"), key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// writeKubeconfig writes a file that holds its certificates itself, so that it
// works wherever it is copied to.
func writeKubeconfig(path, file string) error {
	var data [3][]byte
	for i, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		var err error
		if data[i], err = os.ReadFile(pki(name)); err != nil {
			return err
		}
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: apiName,
		Clusters:       map[string]*clientcmdapi.Cluster{apiName: {Server: apiURL(), CertificateAuthorityData: data[0]}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{file: {ClientCertificateData: data[1], ClientKeyData: data[2]}},
		Contexts:       map[string]*clientcmdapi.Context{apiName: {Cluster: apiName, AuthInfo: file}},
	}, path)
}
