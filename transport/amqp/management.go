package amqp

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gombu/gombu/driver"
)

// Queues implements driver.Lister by RabbitMQ's management API (plugin
// rabbitmq_management): AMQP has no question for it. The broker renews the
// counts every 5 s; one that it does not have yet is -1.
func (s *session) Queues(ctx context.Context) ([]driver.QueueInfo, error) {
	cfg := &s.connector.cfg
	address := cfg.managementURL()
	client := &http.Client{Transport: &http.Transport{
		DialContext: cfg.Dial, TLSClientConfig: cfg.TLS, DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, failure("list queues", "", driver.ErrInvalid, err)
	}
	if address.User == nil {
		password, err := cfg.password(ctx)
		if err != nil {
			return nil, at("list queues", address.Host, err)
		}
		req.SetBasicAuth(cfg.User, password)
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, s.ctxError(ctx, "list queues", address.Host, driver.ErrUnavailable)
		}
		return nil, failure("list queues", address.Host, driver.ErrUnavailable,
			fmt.Errorf("the management API does not answer (enable the plugin rabbitmq_management, or set management=http://host:port): %w", hideURL(err)))
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if err := statusError(resp, address.Host); err != nil {
		return nil, err
	}
	return decodeQueues(resp, address.Host)
}

// managementURL is where the queues of the virtual host are listed.
func (cfg *Config) managementURL() *url.URL {
	u := &url.URL{Scheme: "http"}
	if cfg.UseTLS {
		u.Scheme = "https"
	}
	host, _, _ := net.SplitHostPort(cfg.address())
	u.Host = net.JoinHostPort(host, strconv.Itoa(cfg.Port+managementPortOffset))
	if cfg.Management != "" {
		if base, err := url.Parse(cfg.Management); err == nil { // validate has seen it
			u = base
		}
	}
	u = u.JoinPath("api", "queues", url.PathEscape(cfg.VHost))
	u.RawQuery = "columns=name,messages_ready,messages_unacknowledged,consumers"
	return u
}

// hideURL takes the address, which may hold a password, out of a client error.
func hideURL(err error) error {
	if e, ok := err.(*url.Error); ok {
		return e.Err
	}
	return err
}

func statusError(resp *http.Response, host string) error {
	kind := driver.ErrUnavailable
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		kind = driver.ErrDenied
	case http.StatusNotFound:
		kind = driver.ErrNotFound
	}
	return failure("list queues", host, kind, fmt.Errorf("the management API answered %s", resp.Status))
}

func decodeQueues(resp *http.Response, host string) ([]driver.QueueInfo, error) {
	var list []struct {
		Name      string
		Ready     *int `json:"messages_ready"`
		Unsettled *int `json:"messages_unacknowledged"`
		Consumers *int
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, failure("list queues", host, driver.ErrUnavailable, fmt.Errorf("unexpected answer: %w", err))
	}
	known := func(n *int) int {
		if n == nil {
			return -1
		}
		return *n
	}
	out := make([]driver.QueueInfo, len(list))
	for i, q := range list {
		out[i] = driver.QueueInfo{Name: q.Name, Ready: known(q.Ready), Unsettled: known(q.Unsettled), Consumers: known(q.Consumers)}
	}
	return out, nil
}
