package dsn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLS reads Kombu's ssl_ keys (ssl_cert_reqs, ssl_ca_certs, ssl_certfile,
// ssl_keyfile, ssl_check_hostname) and server_hostname over base, which may be
// nil and is not changed. Certificates and host names are verified unless the
// URL says otherwise. given is false when none of the keys was there; then the
// result is base. Mistakes are errors of Finish.
func (o *Options) TLS(base *tls.Config) (t *tls.Config, given bool) {
	var reqs, ca, cert, key, name string
	checkHost := true
	for _, there := range []bool{
		o.Enum("ssl_cert_reqs", &reqs, "required", "optional", "none", "CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE"),
		o.String("ssl_ca_certs", &ca),
		o.String("ssl_certfile", &cert),
		o.String("ssl_keyfile", &key),
		o.String("server_hostname", &name),
		o.Bool("ssl_check_hostname", &checkHost),
	} {
		given = given || there
	}
	if !given {
		return base, false
	}
	t = &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		t = base.Clone()
	}
	if name != "" {
		t.ServerName = name
	}
	if ca != "" {
		o.authorities(t, ca)
	}
	if cert != "" || key != "" {
		o.certificate(t, cert, key)
	}
	switch {
	case strings.HasSuffix(strings.ToLower(reqs), "none"):
		t.InsecureSkipVerify = true
	case !checkHost:
		verifyChainOnly(t)
	}
	return t, true
}

func (o *Options) authorities(t *tls.Config, file string) {
	pem, err := os.ReadFile(file)
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("option ssl_ca_certs: %w", err))
		return
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		o.errs = append(o.errs, fmt.Errorf("option ssl_ca_certs: no certificate in %s", file))
	}
}

func (o *Options) certificate(t *tls.Config, cert, key string) {
	if key == "" {
		key = cert // one file may hold both
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("options ssl_certfile, ssl_keyfile: %w", err))
		return
	}
	t.Certificates = []tls.Certificate{pair}
}

// verifyChainOnly is ssl_check_hostname=false: the certificate must lead to a
// trusted authority, whatever name it bears.
func verifyChainOnly(t *tls.Config) {
	roots := t.RootCAs
	t.InsecureSkipVerify = true
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the server shows no certificate")
		}
		v := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			v.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(v)
		return err
	}
}
