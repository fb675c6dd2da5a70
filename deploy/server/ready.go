package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	enums "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"
)

// searchAttributes are the ones that Thaw's workflows set.
var searchAttributes = map[string]enums.IndexedValueType{
	"ThawBlueprint":    enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawAction":       enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawTarget":       enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawState":        enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawRequestedBy":  enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawWaitingFor":   enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawRestorePoint": enums.INDEXED_VALUE_TYPE_KEYWORD,
	"ThawFrozenSince":  enums.INDEXED_VALUE_TYPE_DATETIME,
	"ThawConsistent":   enums.INDEXED_VALUE_TYPE_BOOL,
}

// ready returns when the server answers calls in the namespace, and the
// namespace is as the flags say. An older database may lack attributes.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := client.NewLazyClient(client.Options{
		HostPort: s.address, Namespace: s.Namespace, Logger: sdklog.NewStructuredLogger(slog.Default()),
	})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.address, err)
	}
	defer c.Close()
	steps := []struct {
		what string
		do   func(context.Context, client.Client) error
	}{
		{"namespace", s.setRetention},
		{"search attributes", s.addSearchAttributes},
		{"visibility", s.listable},
		{"web ui", s.uiAnswers},
	}
	for _, step := range steps {
		if err := eventually(ctx, func() error { return step.do(ctx, c) }); err != nil {
			return fmt.Errorf("%s at %s: not ready: %w", step.what, s.address, err)
		}
	}
	return nil
}

func eventually(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) setRetention(ctx context.Context, c client.Client) error {
	w := c.WorkflowService()
	d, err := w.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.Namespace})
	if err != nil {
		return err
	}
	if d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration() == s.Retention {
		return nil
	}
	_, err = w.UpdateNamespace(ctx, &workflowservice.UpdateNamespaceRequest{
		Namespace: s.Namespace,
		Config:    &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(s.Retention)},
	})
	return err
}

func (s *server) addSearchAttributes(ctx context.Context, c client.Client) error {
	o := c.OperatorService()
	have, err := o.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: s.Namespace})
	if err != nil {
		return err
	}
	missing := map[string]enums.IndexedValueType{}
	for name, t := range searchAttributes {
		if _, ok := have.GetCustomAttributes()[name]; !ok {
			missing[name] = t
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := o.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: s.Namespace, SearchAttributes: missing}); err != nil {
		return err
	}
	return fmt.Errorf("%d search attributes just added", len(missing)) // look again: caches lag
}

func (s *server) listable(ctx context.Context, c client.Client) error {
	_, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.Namespace, PageSize: 1, Query: `ThawState = "none"`})
	return err
}

func (s *server) uiAnswers(ctx context.Context, _ client.Client) error {
	if s.ui == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ui+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", s.ui, resp.Status)
	}
	return nil
}
