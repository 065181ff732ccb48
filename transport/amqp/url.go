package amqp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

func init() {
	for _, scheme := range []string{"amqp", "amqps", "pyamqp"} {
		dsn.Register(scheme, open)
	}
}

// elsewhere names the options that Kombu's URLs or transport options have and
// that are set in another place here.
var elsewhere = map[string]string{
	"confirm_publish":   "publishing is always confirmed; ProducerConfig.NoConfirm turns that off",
	"confirm_timeout":   "the context given to Publish bounds the wait",
	"read_timeout":      "each call is bounded by its context, a dead link is found by heartbeat",
	"max_retries":       "set Config.Retry",
	"interval_start":    "set Config.Retry",
	"interval_step":     "set Config.Retry",
	"interval_max":      "set Config.Retry",
	"failover_strategy": "set Config.Failover",
	"socket_settings":   "set DialConfig.Dial",
	"client_properties": "set DialConfig.ClientProperties",
	"virtual_host":      "it is the path of the URL",
	"insist":            "it has had no effect since AMQP 0-8; leave it out",
}

func open(u *dsn.URL, d driver.DialConfig) (driver.Connector, error) {
	for _, key := range slices.Sorted(maps.Keys(u.Query)) {
		if hint := elsewhere[key]; hint != "" {
			return nil, failure("open", u.Scheme+"://", driver.ErrInvalid, fmt.Errorf("option %s does not belong in the URL: %s", key, hint))
		}
	}
	cfg := Config{
		DialConfig: d,
		Host:       u.Host, Port: u.Port, User: u.User, Password: u.Password,
		VHost:  u.Path,
		UseTLS: u.Scheme == "amqps",
	}
	o := u.Options()
	o.DialOptions(&cfg.DialConfig)
	o.Int("frame_max", &cfg.FrameMax)
	o.Int("channel_max", &cfg.ChannelMax)
	o.Seconds("write_timeout", &cfg.WriteTimeout)
	o.String("management", &cfg.Management)
	o.Bool("ssl", &cfg.UseTLS)
	tlsErr := tlsOptions(o, &cfg, u.Scheme)
	if err := cmp.Or(o.Finish(), tlsErr); err != nil {
		return nil, err
	}
	c := newConnector(cfg)
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// tlsOptions reads Kombu's ssl_ keys into cfg.TLS. Certificates and names are
// verified unless the URL says otherwise.
func tlsOptions(o *dsn.Options, cfg *Config, scheme string) error {
	reqs, checkHost := "", true
	var ca, cert, key, name string
	given := slices.Contains([]bool{
		o.Enum("ssl_cert_reqs", &reqs, "required", "optional", "none", "CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE"),
		o.String("ssl_ca_certs", &ca),
		o.String("ssl_certfile", &cert),
		o.String("ssl_keyfile", &key),
		o.String("server_hostname", &name),
		o.Bool("ssl_check_hostname", &checkHost),
	}, true)
	bad := func(err error) error { return failure("open", scheme+"://", driver.ErrInvalid, err) }
	switch {
	case scheme == "amqps" && !cfg.UseTLS:
		return bad(errors.New("ssl=false contradicts amqps://"))
	case !given:
		return nil
	case !cfg.UseTLS:
		return bad(errors.New("TLS options need amqps:// or ssl=true"))
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		t = cfg.TLS.Clone()
	}
	if name != "" {
		t.ServerName = name
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return bad(fmt.Errorf("ssl_ca_certs: %w", err))
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return bad(fmt.Errorf("ssl_ca_certs: no certificate in %s", ca))
		}
	}
	if cert != "" || key != "" {
		if key == "" {
			key = cert // one file may hold both
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return bad(fmt.Errorf("ssl_certfile, ssl_keyfile: %w", err))
		}
		t.Certificates = []tls.Certificate{pair}
	}
	switch {
	case strings.HasSuffix(strings.ToLower(reqs), "none"):
		t.InsecureSkipVerify = true
	case !checkHost:
		verifyChainOnly(t)
	}
	cfg.TLS = t
	return nil
}

// verifyChainOnly checks that a known authority signed the certificate, and
// not whom it was made out to.
func verifyChainOnly(t *tls.Config) {
	roots := t.RootCAs
	t.InsecureSkipVerify = true
	t.VerifyConnection = func(cs tls.ConnectionState) error {
		intermediates := x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			intermediates.AddCert(c)
		}
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
		return err
	}
}
