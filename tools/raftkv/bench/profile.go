package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// profile has every member write a CPU profile of some seconds, and sends the outcome when all
// have. Without a name there is none.
func (c *cluster) profile(ctx context.Context, name string, seconds float64) <-chan error {
	done := make(chan error, 1)
	if name == "" {
		done <- nil
		return done
	}
	each := make(chan error, len(c.servers))
	for i, s := range c.servers {
		go func() { each <- s.profile(ctx, fmt.Sprintf("%s-n%d.pprof", name, i+1), max(1, int(seconds))) }()
	}
	go func() {
		var err error
		for range c.servers {
			err = errors.Join(err, <-each)
		}
		done <- err
	}()
	return done
}

func (s *server) profile(ctx context.Context, name string, seconds int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", s.client, seconds), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, response.Body)
	return errors.Join(err, f.Close())
}
